"""A module with what a student learns from it: answers, hidden states, queries, keys and values."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgecompile.architectures import DECODERS, ENCODERS
from edgecompile.calibration.walk import find_blocks
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model
from edgecompile.numerics.pooled import pool
from edgecompile.structure import filled_in

QKV = {"q": ("query", "q_proj", "q_lin"), "k": ("key", "k_proj", "k_lin"),
       "v": ("value", "v_proj", "v_lin")}  # fmt: skip
Seen = Mapping[str, Tensor]  # answers, hidden.0 ..., q.0 ..., k.0 ..., v.0 ...


@dataclass(frozen=True)
class Wanted:
    """Layers (from 0) whose outputs are seen, and layers whose queries, keys and values are."""

    hidden: tuple[int, ...] = ()
    relations: tuple[int, ...] = ()


class Watched(nn.Module):
    """forward(input_ids, attention_mask, ...) -> Seen; `body` is transformers' class of the task.

    `widths`: hidden states are mapped to another width, by layer, where theirs is not the same.
    Answers are logits, float32 [rows, labels] or [rows, tokens, vocabulary], or an embedding
    [rows, width]; hidden states, queries, keys and values are [rows, tokens, width].
    """

    def __init__(
        self, model: Model, body: nn.Module, wanted: Wanted, widths: Mapping[int, int] | None = None
    ) -> None:
        super().__init__()
        self.body, self.pooling = body, model.pooling
        self.decoder = model.task == "text-generation"
        self.bridges = _bridges(model, widths or {})
        self._seen: dict[str, Tensor] = {}
        blocks = find_blocks(body)
        for index in wanted.hidden:
            blocks[index][1].register_forward_hook(self._keeps(f"hidden.{index}"))
        for index in wanted.relations:
            for what, linear in projections(blocks[index][1], model).items():
                linear.register_forward_hook(self._keeps(f"{what}.{index}"))

    def _keeps(self, name: str) -> Any:
        def hook(_module: nn.Module, _given: Any, out: Any) -> None:
            self._seen[name] = out[0] if isinstance(out, tuple) else out

        return hook

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the module and hand out what was seen."""
        self._seen = {}
        extra = {"use_cache": False} if self.decoder else {}
        found = self.body(**inputs, **extra)
        if self.pooling is None:
            answers = found.logits
        else:
            answers = pool(found.last_hidden_state, inputs["attention_mask"], self.pooling.mode)
            if self.pooling.normalize:
                answers = nn.functional.normalize(answers, dim=-1)
        seen, self._seen = self._seen, {}
        for index, bridge in self.bridges.items():
            seen[f"hidden.{index}"] = bridge(seen[f"hidden.{index}"])
        return {"answers": answers, **seen}


def _bridges(model: Model, widths: Mapping[int, int]) -> nn.ModuleDict:
    """Trained maps from a layer's width to another (by layer), where the two differ."""
    own = int(filled_in(model).hidden_size)
    other = {str(layer): width for layer, width in widths.items() if width != own}
    return nn.ModuleDict({n: nn.Linear(own, width, bias=False) for n, width in other.items()})


def blocks_of(body: nn.Module) -> int:
    """How many blocks a module has; 1 for one that is none but itself."""
    return len(find_blocks(body))


def projections(block: nn.Module, model: Model) -> dict[str, nn.Module]:
    """A block's linear layers for queries, keys and values."""
    found = {
        what: module for what, names in QKV.items()
        for path, module in block.named_modules() if path.rpartition(".")[2] in names
    }  # fmt: skip
    if found.keys() != QKV.keys():
        known = ", ".join(sorted([*ENCODERS, *(n for n, d in DECODERS.items() if not d.fused)]))
        raise UnsupportedError(
            model.name, f"{model.architecture} has no layers for queries, keys and values apart",
            f"one of {known}", "--set distill.relations=0",
        )  # fmt: skip
    return found


def mapped(student: int, teacher: int, every: Sequence[int] = ()) -> dict[int, int]:
    """Student layer -> teacher layer, evenly from the first to the last (Jiao et al. 2020).

    Only the student's layers `every` where those are named; layers count from 0.
    """
    wanted = every or range(student)
    return {layer: -(-(layer + 1) * teacher // student) - 1 for layer in wanted}


def relation(values: Tensor, heads: int, mask: Tensor | None, causal: bool) -> Tensor:
    """Log-softmax of scaled products among tokens, [rows, heads, tokens, tokens].

    MiniLMv2 (Wang et al. 2021, eq. 4): widths are cut into relation heads, so that student and
    teacher need not have the same.
    """
    rows, tokens, width = values.shape
    split = values.view(rows, tokens, heads, width // heads).transpose(1, 2)
    products = split @ split.transpose(-1, -2) / (width // heads) ** 0.5
    if mask is not None:
        products = products.masked_fill(mask[:, None, None, :] == 0, float("-inf"))
    if causal:
        seen = torch.ones((tokens, tokens), dtype=torch.bool, device=values.device).tril()
        products = products.masked_fill(~seen, float("-inf"))
    found: Tensor = products.log_softmax(-1)
    return found


def relation_heads(wanted: int, student: Model, teacher: Model) -> int:
    """As many as wanted, or fewer: both models' queries, keys and values have to divide by them."""
    sizes = []
    for model in (student, teacher):
        config = filled_in(model)
        heads = int(config.num_attention_heads)
        size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        groups = int(getattr(config, "num_key_value_heads", None) or heads)
        sizes += [heads * size, groups * size]
    return max(n for n in range(1, wanted + 1) if all(size % n == 0 for size in sizes))
