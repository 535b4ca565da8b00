"""Hyperparameters that a check finds again in the engine's file, under the config's names."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgecompile.architectures import common

COUNTS = (
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size",
    "intermediate_size", "vocab_size",
)  # fmt: skip
FACTORS = (
    "attn_logit_softcapping", "final_logit_softcapping", "embedding_multiplier",
    "residual_multiplier", "attention_multiplier", "logits_scaling",
)  # fmt: skip
PARTS = ("text", "vision")
EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon")


def of_config(config: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a Hugging Face config that change answers when they change.

    `norm_eps` is the norms' epsilon under a name of its own, for files that do not say which kind
    of norm it belongs to; `norm_eps_spread` is 0: all norms share it. Of a config with
    a part a graph, each part's have the graph's name before them.
    """
    parts = {part: config.get(f"{part}_config") for part in PARTS}
    if all(isinstance(one, Mapping) for one in parts.values()):
        return {
            f"{part}.{name}": value
            for part, one in parts.items() for name, value in of_config(one or {}).items()
        }  # fmt: skip
    config = common(config)
    found = {
        name: float(config[name])
        for name in (*COUNTS, *EPSILONS, *FACTORS)
        if isinstance(config.get(name), int | float)
    }
    epsilon = next((found[name] for name in EPSILONS if name in found), None)
    if epsilon is not None:
        found |= {"norm_eps": epsilon, "norm_eps_spread": 0.0}
    rope = config.get("rope_parameters") or {}
    whole, local = (rope.get(kind) or {} for kind in ("full_attention", "sliding_attention"))
    bases = {
        "rope_theta": rope.get("rope_theta") or whole.get("rope_theta"),
        "rope_local_base_freq": local.get("rope_theta"),
    }
    for name, stated in bases.items():
        theta = stated or config.get(name)
        if isinstance(theta, int | float):
            found[name] = float(theta)
    return found
