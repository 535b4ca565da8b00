"""attention: a decoder with dense attention gets a sliding window, as a config that has one."""
from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from edgecompile.errors import UnsupportedError, UsageError
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.passes import CHECKPOINT, NOTE, Effort, LayerReport, PassResult, Work
from edgecompile.passes.grid import in_range
from edgecompile.structure import filled_in

LOCAL, WHOLE = "sliding_attention", "full_attention"  # a config's layer_types
SWITCHED = ("qwen2", "qwen3", "smollm3")  # layer by layer, where use_sliding_window says so
NAMES = {"mistral": "MistralForCausalLM", "smollm3": "SmolLM3ForCausalLM"}


@dataclass(frozen=True)
class Attention:
    """`window`: a position sees itself and the `window` - 1 before it.

    Every `dense_every`-th layer keeps its dense attention; 0: none does.
    """

    name: ClassVar[str] = "attention"
    reads_text: ClassVar[tuple[str, ...]] = ()
    reads_target: ClassVar[bool] = False
    window: int = 0
    dense_every: int = 0
    pattern: Literal["sliding", "block-local"] = "sliding"

    def __post_init__(self) -> None:
        """Refuse what means nothing, before anything is read."""
        in_range(
            self.name, window=(self.window, 1, math.inf),
            dense_every=(self.dense_every, 0, math.inf),
        )  # fmt: skip
        if self.dense_every == 1:
            raise UsageError("[attention] dense_every", "1: every layer stays dense", "2 or more")

    def headers(self, model: Model) -> Model:
        """The same tensors under the new config."""
        return dataclasses.replace(model, config=self._config(model))

    def preview(self, model: Model) -> dict[str, Scheme]:
        """No tensor gets codes."""
        return {}

    def effort(self, model: Model) -> Effort:
        """The tensors are written once more."""
        return Effort(rounded=float(model.parameters) / 8)

    def __call__(self, model: Model, work: Work) -> PassResult:
        """Write the checkpoint with the new config; the model is that from here on."""
        from edgecompile.pruning import checkpoint

        config, folder = self._config(model), work.folder / CHECKPOINT
        shutil.rmtree(folder, ignore_errors=True)
        checkpoint.write(
            model, folder, config, list(model.weights),
            lambda name: model.weights[name].contiguous(),
        )  # fmt: skip
        kinds = self._kinds(int(config["num_hidden_layers"]))
        note = f"attention: {kinds.count(LOCAL)} of {len(kinds)} layers see {self.window} positions"
        (work.folder / NOTE).write_text(note, encoding="utf-8")
        model.weights.release()
        rows = [
            LayerReport(f"model.layers.{i}.self_attn", *_became(kind, self.window))
            for i, kind in enumerate(kinds)
        ]
        return PassResult(checkpoint.adopt(model, folder, note), tuple(rows))

    def _kinds(self, layers: int) -> list[str]:
        every = self.dense_every
        return [WHOLE if every and not (i + 1) % every else LOCAL for i in range(layers)]

    def _config(self, model: Model) -> dict[str, Any]:
        """The config with a window; UnsupportedError where no config of its kind has one."""
        self._refuse(model)
        full: Mapping[str, Any] = filled_in(model).to_dict()
        kinds = self._kinds(int(full["num_hidden_layers"]))
        dense = self.dense_every and WHOLE in kinds
        switched = {
            "use_sliding_window": True, "sliding_window": self.window, "layer_types": kinds,
        }  # fmt: skip
        if model.architecture == "llama" and dense:  # a SmolLM3 whose layers all rotate
            return _as("smollm3", full, switched | {"no_rope_layers": [1] * len(kinds)})
        if model.architecture == "llama":
            return _as("mistral", full, {"sliding_window": self.window})
        if model.architecture in SWITCHED:
            return {**model.config, **switched, "max_window_layers": 0}
        if dense:
            raise UnsupportedError(
                model.name, f"dense_every with {model.architecture}, whose window is of all layers",
                f"one of llama, {', '.join(SWITCHED)}", "leave dense_every out",
            )  # fmt: skip
        return {**model.config, "sliding_window": self.window}

    def _refuse(self, model: Model) -> None:
        if self.pattern == "block-local":
            raise UnsupportedError(
                model.name, "block-local attention: no config of a described decoder can say it, "
                "so that no other tool would compute it", "sliding", "leave pattern out",
            )  # fmt: skip
        known = ("llama", "mistral", "phi3", *SWITCHED)
        if model.architecture not in known or model.task != "text-generation":
            raise UnsupportedError(
                model.name, f"a window for {model.architecture}: {_why(model)}",
                f"a decoder of {', '.join(known)}", "leave [attention] out",
            )  # fmt: skip
        config = filled_in(model)
        biased = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False)]
        if model.architecture == "llama" and biased:
            raise UnsupportedError(
                model.name, f"{biased[0]}: a Llama with a window is a Mistral, which has no biases",
                "a model without biases", "leave [attention] out",
            )  # fmt: skip
        longest = _sees(config)
        if self.window >= longest:
            raise UsageError(
                "[attention] window", f"{self.window}, of {longest} that it sees", "fewer"
            )


def _as(kind: str, full: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """Llama's config under another name: the same tensors mean the same there."""
    own = ("attention_bias", "mlp_bias", "pretraining_tp")
    kept = {key: value for key, value in full.items() if key not in own}
    return {**kept, **changed, "model_type": kind, "architectures": [NAMES[kind]]}


def _sees(config: Any) -> int:
    """Positions that the widest layer sees."""
    from edgecompile.backends.decoders import windows

    longest = int(config.max_position_embeddings)
    return max(longest if size < 0 else size for size in windows(config))


def _why(model: Model) -> str:
    if model.architecture == "modernbert" or model.architecture.startswith("gemma3"):
        return "its layers see a window already, but for those that rotate with another base"
    return "its config has none, and a mask of our own would be lost in every other tool"


def _became(kind: str, window: int) -> tuple[str, str]:
    if kind == LOCAL:
        return "changed", f"sees {window} positions"
    return "skipped", "stays dense: dense_every"
