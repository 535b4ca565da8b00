"""Step 0: are the sealed files what the quantize stage chose? Exact, tensor by tensor."""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile import facts, registry
from edgecompile.backends import Backend, Decoded
from edgecompile.checks.limits import bits_of, own_types
from edgecompile.errors import BadInputError
from edgecompile.host import usable_cores
from edgecompile.metrics import Measurement
from edgecompile.model import Model, Weights
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import (
    SMALLEST_SCALE,
    Float32,
    QuantizedTensor,
    float_digest,
    weights_digest,
)
from edgecompile.recipe import RESHAPING
from edgecompile.report import Row, exact, judged
from edgecompile.sources.towers import LOGIT_SCALE

STEP = "sealed"
FACT_TOLERANCE = 1e-6  # relative: float32 in the file, a decimal in the config
BLOCK = 1 << 18  # elements compared with the source at a time by one thread: fits the cache
NEAREST = {"quantize_rtn"}  # passes that move no weight by more than half a step
COMPENSATING = {"quantize_gptq", "quantize_awq"}  # passes that move weights to make up for others
# Times the error of plain rounding that these may leave in a matrix: on two real models GPTQ left
# at most 2.1, scales that are off by one group at least 3.5 (docs/decisions/0015-verdicts.md).
MOST_COMPENSATED = 3.0


def backend_of(manifest: Mapping[str, Any]) -> Backend:
    """The backend that wrote the bundle, with the options that the manifest records."""
    options = manifest["target_options"]
    backend: Backend = registry.create(
        "backends", options["backend"], options.get("options", {}), "manifest: target_options"
    )
    return backend


def decode(bundle: Path, manifest: Mapping[str, Any]) -> Decoded:
    """Codes, floats and facts of the sealed engine files."""
    return backend_of(manifest).decode(bundle / "model", manifest)


def rows(
    decoded: Decoded,
    manifest: Mapping[str, Any],
    model: Model | None,
    expected: Mapping[str, QuantizedTensor],
) -> Iterator[Row]:
    """Codes, floats, digests and facts, each with the names of what differs.

    Each tensor is read from the file once, and one is held at a time.
    """
    tensors = {entry["name"]: entry for entry in manifest["tensors"]}
    passes = {entry["name"] for entry in _on_grid(manifest)}
    compensating = bool(passes) and passes <= COMPENSATING
    seen = [
        _look(name, decoded, tensors.get(name), model, expected.get(name), compensating)
        for name in sorted(tensors.keys() | decoded.quantized.keys())
    ]
    wrong = [tensor.difference for tensor in seen if tensor.difference]
    yield exact(STEP, "codes_differing", wrong, len(tensors))
    digest = weights_digest((tensor.name, tensor.digest) for tensor in seen if tensor.digest)
    wrong = [] if digest == manifest["weights_digest"] else [digest]
    yield exact(STEP, "weights_digest_differing", wrong, 1)
    floats = {entry["name"]: entry for entry in manifest["floats"]}
    yield exact(STEP, "floats_differing", _differing_floats(decoded, floats), len(floats))
    known = facts.of_config(model.config) if model else dict(manifest["facts"])
    found = {name: value for name, value in decoded.facts.items() if name in known}
    yield exact(STEP, "facts_differing", _differing_facts(found, known), len(found))
    if model is not None:
        if LOGIT_SCALE in manifest["unused"]:
            yield exact(STEP, "logit_scale_differing", _differing_scale(manifest, model), 1)
        yield exact(STEP, "tensors_missing", _missing(model, decoded, manifest), len(model.weights))
        yield from _weight_rows(seen, manifest)
        yield from own_rows(decoded, manifest, model)


def refuse_another_source(stated: str, model: Model) -> None:
    """BadInputError where the model's digest is not the one that a bundle states."""
    if model.source.digest != stated:
        raise BadInputError(
            f"source {model.source.reference}", f"digest {model.source.digest[:16]}",
            f"{stated[:16]}, the model that the bundle was built from",
            "name the right model with --source",
        )  # fmt: skip


@dataclass(frozen=True)
class _Seen:
    """What was found out about one quantized tensor while it was in memory."""

    name: str
    digest: str = ""  # empty when it is not in the file
    difference: str = ""  # from the manifest, or from the quantize stage's codes
    ratio: float | None = None  # of its worst group's error to the bound, against the source
    times: float | None = None  # its error over that of plain rounding


def _look(
    name: str, decoded: Decoded, entry: Mapping[str, Any] | None, model: Model | None,
    chosen: QuantizedTensor | None, compensating: bool,
) -> _Seen:  # fmt: skip
    """Read one tensor of the file and compare it with the manifest, the codes and the source."""
    if name not in decoded.quantized:
        return _Seen(name, difference=f"{name} (not in the file)")
    found = decoded.quantized[name]
    infos = model.weights.infos if model is not None else {}
    ratio = times = None
    with ThreadPoolExecutor(1) as hashing:
        digest = hashing.submit(found.digest, name)
        if name in infos and infos[name].matrix == found.codes.shape:
            weight = Weights({name: infos[name]}).matrix(name)  # unmapped after
            ratio = worst_group(found, weight)
            times = times_plain(found, weight) if compensating else None
    difference = _difference(name, found, digest.result(), entry, chosen)
    return _Seen(name, digest.result(), difference, ratio, times)


def _difference(
    name: str, found: QuantizedTensor, digest: str, entry: Mapping[str, Any] | None,
    chosen: QuantizedTensor | None,
) -> str:  # fmt: skip
    if entry is None:
        return f"{name} (not in the manifest)"
    if found.scheme.name != entry["scheme"]:
        return f"{name} ({found.scheme.name}, not {entry['scheme']})"
    if digest != entry["sha256"]:
        return name + _place(found, chosen)
    if chosen is not None and (found.scheme != chosen.scheme or first_difference(found, chosen)):
        return f"{name} (not as the quantize stage chose)"
    return ""


def _place(found: QuantizedTensor, expected: QuantizedTensor | None) -> str:
    """Where two tensors first differ, if the expected codes are at hand."""
    if expected is None or found.scheme != expected.scheme:
        return ""
    text = first_difference(found, expected)
    return text and f" ({text})"


def first_difference(found: QuantizedTensor, expected: QuantizedTensor) -> str:
    """`3 codes differ, first at [0, 7]: (1, -2)`; empty where codes and scales are equal.

    Both tensors have one shape and scheme.
    """
    if (found.inputs is None) != (expected.inputs is None):
        return "only one has factors of its inputs"
    for what in ("codes", "scales", "inputs"):
        one, other = getattr(found, what), getattr(expected, what)
        if one is None:
            continue
        one, other = np.atleast_2d(one), np.atleast_2d(other)
        differ = one != other
        if count := int(np.count_nonzero(differ)):
            row, column = (int(at) for at in np.unravel_index(int(differ.argmax()), differ.shape))
            values = one[row, column].item(), other[row, column].item()
            return f"{count} {what} differ, first at [{row}, {column}]: {values}"
    return ""


def _differing_floats(decoded: Decoded, floats: Mapping[str, Mapping[str, Any]]) -> list[str]:
    wrong = []
    for name in sorted(floats.keys() | decoded.floats.keys()):
        entry = floats.get(name)
        if name not in decoded.floats or entry is None:
            where = "manifest" if name in decoded.floats else "file"
            wrong.append(f"{name} (not in the {where})")
        elif float_digest(name, decoded.floats[name], entry["dtype"]) != entry["sha256"]:
            wrong.append(name)
    return wrong


def changed_floats(manifest: Mapping[str, Any]) -> list[str]:
    """Tensors off the grid that are not the source's: changed by a pass, or of an engine's type."""
    rows = (row for one in _on_grid(manifest) for row in one["layers"])
    changed = {row["name"] for row in rows if row["action"] == "changed"}
    floats = {entry["name"] for entry in manifest["floats"]}
    return sorted(changed & floats | own_types(manifest).keys())


def _on_grid(manifest: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The passes after the last that wrote a checkpoint: what the model is compared from."""
    return (one for one in manifest["passes"] if one.get("stage") not in RESHAPING)


def _differing_facts(found: Mapping[str, float], known: Mapping[str, float]) -> list[str]:
    return [
        f"{name} ({value!r}, not {known[name]!r})"
        for name, value in sorted(found.items())
        if not math.isclose(value, known[name], rel_tol=FACT_TOLERANCE, abs_tol=0.0)
    ]


def _differing_scale(manifest: Mapping[str, Any], model: Model) -> list[str]:
    """What multiplies a cosine of a text's and a picture's vector is in no engine's file."""
    stated, right = manifest["similarity"]["logit_scale"], float(model.dense(LOGIT_SCALE))
    return [] if stated == right else [f"{LOGIT_SCALE} ({stated!r}, not {right!r})"]


def _missing(model: Model, decoded: Decoded, manifest: Mapping[str, Any]) -> list[str]:
    """Source tensors that are in neither the file nor the manifest's `unused`."""
    there = decoded.quantized.keys() | decoded.floats.keys() | manifest["unused"].keys()
    return sorted(set(model.weights) - there)


def _weight_rows(seen: Sequence[_Seen], manifest: Mapping[str, Any]) -> Iterator[Row]:
    """The largest error of any scale's group against the source's weights.

    Rounding to nearest errs by at most half a step an element, so by sqrt(n) / (2 high) of the
    group's norm; 1.25 times that is the limit, where nothing but such a pass changed the weights.
    It sees what was chosen wrongly, which no comparison with the manifest can.
    """
    passes = {entry["name"] for entry in _on_grid(manifest)}
    ratios = {tensor.name: tensor.ratio for tensor in seen if tensor.ratio is not None}
    if not ratios:
        return
    worst = max(ratios, key=lambda name: (math.isnan(ratios[name]), ratios[name]))
    measured = Measurement("group_error", ratios[worst], "of the bound", "lower", len(ratios))
    yield judged(STEP, measured, 1.25 if passes <= NEAREST else None, worst)
    left = {tensor.name: tensor.times for tensor in seen if tensor.times is not None}
    if left:
        worst = max(left, key=lambda name: (math.isnan(left[name]), left[name]))
        measured = Measurement("matrix_error", left[worst], "of plain", "lower", len(left))
        yield judged(STEP, measured, MOST_COMPENSATED, worst)


def own_rows(decoded: Decoded, manifest: Mapping[str, Any], model: Model) -> Iterator[Row]:
    """The largest error |w - w'| / |w| of a tensor in an engine's own type, over 2^(2 - bits).

    Such types lose about 2^-bits of a tensor's norm, with an importance matrix up to twice that;
    rows in another order lose about 1.4 of it. Finer faults are for the comparison of answers.
    """
    ratios = {}
    for name, kind in own_types(manifest).items():
        if name in decoded.floats and name in model.weights and name not in model.replaced:
            weight = Weights({name: model.weights.infos[name]}).float32(name)  # unmapped after
            lost, norm = (float(np.linalg.norm(w)) for w in (weight - decoded.floats[name], weight))
            ratios[name] = lost / max(norm, 1e-30) / 2.0 ** (2 - bits_of(kind))
    if ratios:
        worst = max(ratios, key=lambda name: (math.isnan(ratios[name]), ratios[name]))
        found = Measurement("tensor_error", ratios[worst], "of the bound", "lower", len(ratios))
        yield judged(STEP, found, 1.0, worst)


def worst_group(tensor: QuantizedTensor, weight: Float32) -> float:
    """max over groups of |w - codes x scale| / |w|, over the bound sqrt(n) / (2 high).

    A group of zeros has to stay zero. No scale is below SMALLEST_SCALE, so a group whose norm is
    (a dead channel of a depthwise convolution) may lose half of that step an element.
    """
    rows, columns = weight.shape

    def worst(part: slice) -> float:
        piece = dataclasses.replace(tensor, codes=tensor.codes[part], scales=tensor.scales[part])
        return float(_group_errors(piece, weight[part]).max())  # NaN stays

    step = max(1, BLOCK // columns)
    with ThreadPoolExecutor(usable_cores()) as pool:
        parts = (slice(start, start + step) for start in range(0, rows, step))
        largest = float(np.max(list(pool.map(worst, parts))))
    size = columns // tensor.scales.shape[1]
    return largest / (math.sqrt(size) / (2 * tensor.scheme.high))


def times_plain(tensor: QuantizedTensor, weight: Float32) -> float:
    """|w - codes x scale| over that of rounding to nearest on the same scheme, Frobenius norms."""
    step = max(1, BLOCK // weight.shape[1])

    def squares(start: int) -> tuple[float, float]:
        part = slice(start, start + step)
        piece = dataclasses.replace(tensor, codes=tensor.codes[part], scales=tensor.scales[part])
        values = weight[part]
        plain = quantize(values, tensor.scheme, False)
        lost = (values - one.dequantize() for one in (piece, plain))
        found, nearest = (float(np.einsum("oi,oi", one, one, dtype=np.float64)) for one in lost)
        return found, nearest

    with ThreadPoolExecutor(usable_cores()) as pool:
        found, nearest = np.sum(list(pool.map(squares, range(0, len(weight), step))), axis=0)
    return math.sqrt(found / nearest) if nearest else (0.0 if found == 0 else math.inf)


def _group_errors(tensor: QuantizedTensor, weight: Float32) -> Float32:
    """|w - codes x scale| / |w| of each group, float32 [out, groups]."""
    shape = (*tensor.scales.shape, -1)
    error, values = (weight - tensor.dequantize()).reshape(shape), weight.reshape(shape)
    errors, norms = (np.sqrt(np.einsum("ogi,ogi->og", v, v)) for v in (error, values))
    with np.errstate(invalid="ignore", divide="ignore"):
        least = np.where(norms == 0, norms, np.maximum(norms, SMALLEST_SCALE * tensor.scheme.high))
        ratio: Float32 = np.where(errors == 0, np.float32(0), errors / least)
    return ratio
