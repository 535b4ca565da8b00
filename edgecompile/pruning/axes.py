"""What may be cut together: the axes of a model's tensors, by its architecture's description."""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgecompile.architectures import DECODERS, PRUNABLE, Decoder, Encoder
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model
from edgecompile.structure import filled_in

if TYPE_CHECKING:
    from transformers import PretrainedConfig

HEADS, MLP, HIDDEN = "heads", "mlp", "hidden"
KINDS = (HEADS, MLP, HIDDEN)
STORED = (".weight", ".bias", ".gamma", ".beta")  # what a module's tensors may be called


@dataclass(frozen=True)
class Cut:
    """An axis in a tensor: along `dim` from `offset` on, `size` neighbours a unit."""

    tensor: str
    dim: int
    size: int = 1
    offset: int = 0


@dataclass(frozen=True)
class Axis:
    """`units` that go or stay in all their tensors at once.

    Heads (with grouped queries: a key-value head and its queries) and the MLP's neurons are chosen
    in each layer apart, the hidden width's channels (`layer` -1) for the whole model.
    """

    kind: str
    layer: int
    units: int
    cuts: tuple[Cut, ...]

    @property
    def key(self) -> str:
        """Its name in files and reports: mlp.3, or hidden."""
        return self.kind if self.layer < 0 else f"{self.kind}.{self.layer}"


@dataclass(frozen=True)
class Lever:
    """Kinds of axes that shrink in step: how many units of each go at a time."""

    name: str
    units: Mapping[str, int]


@dataclass(frozen=True)
class Shape:
    """A model's axes, and by which levers they may shrink.

    A Hugging Face config has one number of heads and one of neurons for all layers, so that is what
    a lever changes; which of them stay is each layer's own choice.
    """

    axes: tuple[Axis, ...]
    levers: tuple[Lever, ...]
    queries: int = 1  # of a key-value head
    head_size: int = 1
    layer: str = ""  # names of a block's tensors begin so

    @property
    def widths(self) -> dict[str, int]:
        """Units by kind."""
        return {axis.kind: axis.units for axis in self.axes}

    def cuts(self) -> dict[str, list[tuple[Cut, Axis]]]:
        """Cuts by tensor."""
        found: dict[str, list[tuple[Cut, Axis]]] = {}
        for axis in self.axes:
            for cut in axis.cuts:
                found.setdefault(cut.tensor, []).append((cut, axis))
        return found


def shape_of(model: Model, multiple: int) -> Shape:
    """The model's axes; MLP and hidden width keep a `multiple` of channels.

    UnsupportedError for an architecture without a description.
    """
    encoder, decoder = PRUNABLE.get(model.architecture), DECODERS.get(model.architecture)
    if encoder is None and decoder is None:
        known = ", ".join(sorted([*PRUNABLE, *DECODERS]))
        raise UnsupportedError(
            model.name, f"no description says what of {model.architecture} may be cut together",
            f"one of {known}", 'leave prune out: --set prune.method="none"',
        )  # fmt: skip
    config = filled_in(model)
    if encoder is not None:
        return _encoder(model, encoder, config, multiple)
    assert decoder is not None
    return _decoder(model, decoder, config, multiple)


def smaller_config(model: Model, shape: Shape, widths: Mapping[str, int]) -> dict[str, Any]:
    """The config with new widths, under the names that the architecture gives them."""
    config = filled_in(model)
    encoder = PRUNABLE.get(model.architecture)
    neurons = encoder.neurons if encoder else "intermediate_size"
    new = {neurons: widths[MLP], "hidden_size": widths[HIDDEN]}
    new["num_attention_heads"] = widths[HEADS] * shape.queries
    decoder = DECODERS.get(model.architecture)
    if decoder and decoder.free_heads:
        new |= {"num_key_value_heads": widths[HEADS], "head_dim": shape.head_size}
    names = {**config.attribute_map, **(decoder.settings if decoder else {})}
    return {**model.config, **{names.get(name, name): value for name, value in new.items()}}


def _encoder(
    model: Model, names: Encoder, config: PretrainedConfig, multiple: int
) -> Shape:
    prefix = names.prefix if any(name.startswith(names.prefix) for name in model.weights) else ""
    heads, width = int(config.num_attention_heads), int(config.hidden_size)
    size, channels = width // heads, int(getattr(config, names.neurons))
    hidden: list[Cut] = []
    tables = (names.words, names.positions, *((names.kinds,) if names.kinds else ()))
    hidden += [Cut(f"{prefix}{name}.weight", 1) for name in tables]
    hidden += _along(model, [prefix + names.norm], 0)
    axes: list[Axis] = []
    for index in range(int(config.num_hidden_layers)):
        at = prefix + names.layer.format(index)
        qkv, out = [at + name for name in names.qkv], at + names.out
        up, down = at + names.up, at + names.down
        axes.append(Axis(HEADS, index, heads, (
            *_along(model, qkv, 0, size), *_along(model, [out], 1, size),
        )))  # fmt: skip
        axes.append(Axis(MLP, index, channels, (
            *_along(model, [up], 0), *_along(model, [down], 1),
        )))  # fmt: skip
        hidden += _along(model, [*qkv, up], 1)
        norms = at + names.attention_norm, at + names.mlp_norm
        hidden += _along(model, [out, down, *norms], 0)
    hidden += _encoder_head(model, names, prefix)
    axes.append(Axis(HIDDEN, -1, width, tuple(hidden)))
    # The width is heads times their size in these configs: both shrink together.
    levers = [Lever(MLP, {MLP: math.gcd(multiple, channels)})]
    if model.task != "embedding":  # whose vectors' length is the width
        step = math.lcm(size, math.gcd(multiple, width))
        levers.append(Lever(HIDDEN, {HIDDEN: step, HEADS: step // size}))
    prefix_of_blocks = (prefix + names.layer).split("{}")[0]
    return Shape(tuple(axes), tuple(levers), 1, size, prefix_of_blocks)


def _encoder_head(model: Model, names: Encoder, prefix: str) -> Iterator[Cut]:
    """A head's first layer keeps as many channels as enter it; its last has them as inputs."""
    word, dense = names.word_head, names.head[0]
    dense = dense if prefix else dense.removeprefix(names.prefix)
    for base in (dense, word.dense):
        yield from _along(model, [base], 0)
        yield from _along(model, [base], 1)
    yield from _along(model, [word.norm], 0)
    for base in (names.head[1], word.out):
        yield from _along(model, [base], 1)


def _decoder(
    model: Model, family: Decoder, config: PretrainedConfig, multiple: int
) -> Shape:
    names, groups = family.names, int(family.setting(config, "num_key_value_heads"))
    prefix = names.prefix if any(name.startswith(names.prefix) for name in model.weights) else ""
    stated = family.setting(config, "intermediate_size")
    channels = int(stated or model.common_config["intermediate_size"])
    queries, width = int(config.num_attention_heads) // groups, int(config.hidden_size)
    size = int(getattr(config, "head_dim", None) or width // int(config.num_attention_heads))
    tables = [prefix + names.own(name) for name in ("embed_tokens", "embed_positions")]
    hidden = list(_along(model, [*tables, "lm_head"], 1))
    hidden += _along(model, [prefix + names.own("norm")], 0)
    axes: list[Axis] = []
    for index in range(int(config.num_hidden_layers)):
        at = f"{prefix}{names.layer}{index}."
        first, heads = _attention_inputs(model, at, family, (queries * size, size, groups))
        up, neurons = _mlp_inputs(model, at, family, channels)
        out, down = (at + names.own(name) for name in ("self_attn.o_proj", "mlp.down_proj"))
        axes.append(Axis(HEADS, index, groups, (
            *heads, *_along(model, [out], 1, queries * size),
        )))  # fmt: skip
        axes.append(Axis(MLP, index, channels, (*neurons, *_along(model, [down], 1))))
        hidden += _along(model, [*first, *up], 1)
        norms = (at + names.own(norm) for norm in family.norms.names)
        hidden += _along(model, [out, down, *norms], 0)
    axes.append(Axis(HIDDEN, -1, width, tuple(hidden)))
    levers = tuple(_levers(family, math.gcd(multiple, channels), math.gcd(multiple, width), size))
    return Shape(tuple(axes), levers, queries, size, prefix + names.layer)


def _levers(family: Decoder, neurons: int, channels: int, size: int) -> Iterator[Lever]:
    """By so many neurons or channels at a time."""
    if family.free_heads:
        yield Lever(HEADS, {HEADS: 1})
    yield Lever(MLP, {MLP: neurons})
    if not family.free_heads:  # the width is heads times their size: both shrink together
        step = math.lcm(size, channels)
        yield Lever(HIDDEN, {HIDDEN: step, HEADS: step // size})
    elif not family.scaled_embedding:  # by the root of the width: fewer would be scaled anew
        yield Lever(HIDDEN, {HIDDEN: channels})


def _attention_inputs(
    model: Model, at: str, family: Decoder, sizes: tuple[int, int, int]
) -> tuple[list[str], list[Cut]]:
    """Names of q, k and v (or of the tensor they are), and their cuts by key-value head."""
    query, size, groups = sizes
    if not family.fused:
        names = [f"{at}self_attn.{one}_proj" for one in "qkv"]
        return names, [
            *_along(model, names[:1], 0, query), *_along(model, names[1:], 0, size)
        ]  # fmt: skip
    name = at + family.names.own("self_attn.qkv_proj")
    starts = (query, 0), (size, query * groups), (size, (query + size) * groups)
    return [name], [cut for one in starts for cut in _along(model, [name], 0, *one)]


def _mlp_inputs(
    model: Model, at: str, family: Decoder, channels: int
) -> tuple[list[str], list[Cut]]:
    if not family.fused or not family.gated:
        before = ("mlp.gate_proj", "mlp.up_proj") if family.gated else ("mlp.up_proj",)
        names = [at + family.names.own(name) for name in before]
        return names, list(_along(model, names, 0))
    name = at + "mlp.gate_up_proj"
    return [name], [cut for start in (0, channels) for cut in _along(model, [name], 0, 1, start)]


def _along(
    model: Model, modules: Iterable[str], dim: int, size: int = 1, offset: int = 0
) -> Iterator[Cut]:
    """Cuts of those of the modules' tensors that there are and that have that many dimensions."""
    for module in modules:
        for ending in STORED:
            info = model.weights.infos.get(module + ending)
            if info is not None and dim < len(info.shape):
                yield Cut(module + ending, dim, size, offset)
