"""Hyperparameters that a check finds again in the engine's file, under the config's names."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COUNTS = (
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size",
    "intermediate_size", "vocab_size",
)  # fmt: skip
EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon")


def of_config(config: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a Hugging Face config that change answers when they change.

    `norm_eps` is the norms' epsilon under a name of its own, for files that do not say which kind
    of norm it belongs to; `norm_eps_spread` is 0: all norms share it.
    """
    found = {
        name: float(config[name])
        for name in (*COUNTS, *EPSILONS)
        if isinstance(config.get(name), int | float)
    }
    epsilon = next((found[name] for name in EPSILONS if name in found), None)
    if epsilon is not None:
        found |= {"norm_eps": epsilon, "norm_eps_spread": 0.0}
    rope = config.get("rope_parameters") or {}
    theta = rope.get("rope_theta") or config.get("rope_theta")
    if isinstance(theta, int | float):
        found["rope_theta"] = float(theta)
    return found
