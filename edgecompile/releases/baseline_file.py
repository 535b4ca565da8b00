"""A baseline as JSON: a header, numbers, and arrays as base64 of zlib-compressed float32.

The format is docs/baselines.md's. A file may come from anywhere: sizes are bounded before anything
is allocated, and every field is checked.
"""
from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from edgecompile import __version__
from edgecompile.checks.limits import COSTS
from edgecompile.errors import BadInputError
from edgecompile.releases.baseline import Baseline, Cost, Header, Kept, Kind
from edgecompile.runtime.sections import Section

FORMAT = 1
MOST_BYTES, MOST_SAMPLES, MOST_ENTRIES, MOST_TEXT = 64 << 20, 1 << 22, 256, 512
MOST_DECODED = 1 << 28  # bytes of all arrays
AGAIN = "record it again: edgecompile check BUNDLE --record"
TEXTS = tuple(f.name for f in fields(Header) if f.name not in ("data", "seed", "busy"))


def write(baseline: Baseline, file: Path) -> None:
    """Write it; the same numbers give the same bytes."""
    arrays: list[str] = []
    body = {
        "format": FORMAT, "edgecompile": __version__, "header": asdict(baseline.header),
        "metrics": [_entry(kept, arrays) for kept in baseline.metrics],
        "costs": [_finite(asdict(cost)) for cost in baseline.costs], "arrays": arrays,
    }  # fmt: skip
    text = json.dumps(body, indent=1, sort_keys=True, allow_nan=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.new")
    draft.write_text(text + "\n", "utf-8", newline="\n")
    draft.replace(file)


def _entry(kept: Kept, arrays: list[str]) -> dict[str, Any]:
    table = {f.name: getattr(kept, f.name) for f in fields(Kept)}
    if kept.ideal is None:  # as files were before metrics of users' own
        del table["ideal"]
    table["values"] = _place(_packed(kept.values, "<f4"), arrays)
    table["groups"] = _place(_packed(kept.groups, "<i4"), arrays)
    return _finite(table)


def _place(packed: str, arrays: list[str]) -> int:
    """The number of an array, which metrics may share."""
    if packed not in arrays:
        arrays.append(packed)
    return arrays.index(packed)


def _packed(values: NDArray[Any], dtype: str) -> str:
    raw = np.ascontiguousarray(values, dtype).tobytes()
    return base64.b64encode(zlib.compress(raw, 9)).decode("ascii")


def _finite(table: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: null."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in table.items()}  # fmt: skip


def read(file: Path) -> Baseline:
    """The baseline in a file; anything wrong with it is a BadInputError."""
    if not file.is_file():
        raise BadInputError(str(file), "no such file", "a baseline, or a bundle's folder", AGAIN)
    if file.stat().st_size > MOST_BYTES:
        _refuse(str(file), f"{file.stat().st_size} bytes", f"at most {MOST_BYTES}")
    try:
        body = json.loads(file.read_bytes(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        _refuse(str(file), str(error)[:200] or "nested too deeply", "JSON")
    try:
        return _Reader(str(file), body).baseline()
    except BadInputError as error:
        raise BadInputError(error.where, error.found, error.expected, AGAIN) from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _refuse(where: str, found: str, expected: str) -> NoReturn:
    raise BadInputError(where, found, expected, AGAIN)


class _Reader:
    """Reads a parsed file; `left` bytes may still be decoded."""

    def __init__(self, where: str, body: object) -> None:
        keys = ("format", "edgecompile", "header", "metrics", "costs", "arrays")
        self.where, self.left = where, MOST_DECODED
        self.top = Section(body, keys, where)
        self.top.integer("format", FORMAT, FORMAT)
        _text(self.top, "edgecompile")
        self.arrays = [self._raw(one, i) for i, one in enumerate(self._list("arrays"))]

    def baseline(self) -> Baseline:
        """All of it."""
        return Baseline(
            self._header(),
            tuple(self._kept(one, i) for i, one in enumerate(self._list("metrics"))),
            tuple(self._cost(one, i) for i, one in enumerate(self._list("costs"))),
        )

    def _list(self, key: str) -> Sequence[object]:
        found = self.top.data.get(key)
        if not isinstance(found, list) or len(found) > 3 * MOST_ENTRIES:
            self.top.bad(key, f"a list of at most {3 * MOST_ENTRIES}")
        return found

    def _raw(self, packed: object, index: int) -> bytes:
        where = f"{self.where}: arrays {index}"
        if not isinstance(packed, str):
            _refuse(where, f"{packed!r:.100}", "base64")
        most = min(4 * MOST_SAMPLES, self.left)
        try:
            unpack = zlib.decompressobj()
            raw = unpack.decompress(base64.b64decode(packed, validate=True), most + 1)
        except (binascii.Error, ValueError, zlib.error) as error:
            _refuse(where, str(error)[:200], "base64 of zlib")
        if len(raw) > most or not unpack.eof or unpack.unused_data or len(raw) % 4:
            _refuse(where, f"{len(raw)} bytes or more", f"whole numbers of 4, at most {most}")
        self.left -= len(raw)
        return raw

    def _header(self) -> Header:
        names = [f.name for f in fields(Header)]
        section = Section(self.top.data.get("header"), names, f"{self.where}: header")
        texts = {name: _text(section, name) for name in TEXTS}
        for name in ("model", "target", "variant"):  # they name a file
            if "/" in texts[name] or "\\" in texts[name] or ".." in texts[name]:
                section.bad(name, "a name without folders")
        data = section.data.get("data")
        if not isinstance(data, Mapping) or len(data) > MOST_ENTRIES:
            section.bad("data", "digests by name")
        known = Section(data, list(data), f"{self.where}: header: data")
        if type(section.data.get("busy")) is not bool:
            section.bad("busy", "true or false")
        seed = section.integer("seed", 0, 1 << 62)
        digests = {str(name): _text(known, str(name)) for name in data}
        return Header(**texts, data=digests, seed=seed, busy=section.data["busy"])

    def _kept(self, one: object, index: int) -> Kept:
        where = f"{self.where}: metrics {index}"
        section = Section(one, [f.name for f in fields(Kept)], where)
        values = self._array(section, "values", "<f4").astype(np.float64)
        groups = self._array(section, "groups", "<i4").astype(np.int64)
        kind = section.choice("kind", get_args(Kind))
        if len(values) != len(groups) or (kind != "point") != bool(len(values)):
            section.bad("values", f"as many values as groups ({len(groups)}), none of a point")
        if kind == "share" and not np.isin(values, (0.0, 1.0)).all():
            section.bad("values", "0 or 1 each")
        limit, ideal = section.data.get("limit"), section.data.get("ideal")
        return Kept(
            _text(section, "step"), _text(section, "metric"), kind,  # type: ignore[arg-type]
            _text(section, "unit"), section.choice("better", ("higher", "lower")),  # type: ignore[arg-type]
            _number(section, "value"), None if limit is None else _number(section, "limit"),
            section.integer("samples", 0, 1 << 53), values, groups,
            section.number("share", 0, 1), section.number("per", 0, 1),
            section.integer("least", 0, 1 << 53),
            None if ideal is None else _number(section, "ideal"),
        )  # fmt: skip

    def _array(self, section: Section, key: str, dtype: str) -> NDArray[Any]:
        index = section.integer(key, 0, max(0, len(self.arrays) - 1))
        if not self.arrays:
            section.bad(key, "the number of an array")
        return np.frombuffer(self.arrays[index], dtype)

    def _cost(self, one: object, index: int) -> Cost:
        section = Section(one, [f.name for f in fields(Cost)], f"{self.where}: costs {index}")
        better = section.choice("better", ("higher", "lower"))
        numbers = [section.number(key, 0, 1e300) for key in ("value", "low", "high")]
        return Cost(section.choice("metric", COSTS), _text(section, "unit"), better, *numbers)  # type: ignore[arg-type]


def _text(section: Section, key: str) -> str:
    value = section.data.get(key)
    if not isinstance(value, str) or len(value) > MOST_TEXT or not all(map(str.isprintable, value)):
        section.bad(key, f"a text of at most {MOST_TEXT} characters")
    return value


def _number(section: Section, key: str) -> float:
    """A finite number; null is NaN."""
    if key in section.data and section.data[key] is None:
        return math.nan
    return section.number(key, -1e300, 1e300)
