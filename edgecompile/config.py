"""TOML tables to frozen dataclasses: every unknown key and wrong value is reported at once."""
from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgecompile.errors import UsageError

Table = Mapping[str, Any]
T = TypeVar("T")
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; raises UsageError with the parser's line and column."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(str(path), f"not valid TOML: {error}", way_out="mend that line") from error
    except OSError as error:
        raise UsageError(str(path), f"cannot be read: {error.strerror}") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean` for an unknown name, with all known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names) or 'none'}"


def make(kind: type[T], table: Table, where: str) -> T:
    """Build the frozen dataclass `kind` from a table; its fields are the only keys allowed."""
    problems = list(_problems(kind, table, where))
    if problems:
        raise UsageError(where, "; ".join(problems), way_out="correct the names or values above")
    hints = typing.get_type_hints(kind)
    values = {key: _convert(hints[key], value) for key, value in table.items()}
    return kind(**values)


def _problems(kind: type[Any], table: Table, where: str) -> Iterable[str]:
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for key, value in table.items():
        if key not in fields:
            yield f"{key!r} is not a key here ({nearest(key, fields)})"
        elif not _fits(hints[key], value):
            yield f"{key} = {value!r} is not {_spell(hints[key])}"
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING
        if required and field.default_factory is dataclasses.MISSING and name not in table:
            yield f"{name!r} is missing"


def _fits(hint: Any, value: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is typing.Literal:
        return any(value == one and type(value) is type(one) for one in arguments)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(argument, value) for argument in arguments)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(arguments[0], item) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(arguments[1], v) for v in value.values())
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _convert(hint: Any, value: Any) -> Any:
    if typing.get_origin(hint) is tuple:
        return tuple(value)
    return float(value) if hint is float else value


def _spell(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return getattr(hint, "__name__", str(hint)).replace("typing.", "")


def parse_value(text: str) -> Any:
    """A `--set key=VALUE` value: TOML where it parses as TOML, else the bare string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def apply_setting(table: dict[str, Any], setting: str) -> None:
    """Apply one `--set a.b=value` to nested tables in place."""
    key, equals, text = setting.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UsageError("--set", f"{setting!r} is not KEY=VALUE", "for example quantize.bits=4")
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UsageError("--set", f"{part!r} in {setting!r} is a value, not a table")
    table[parts[-1]] = parse_value(text.strip())


def parse_size(text: str, where: str) -> int:
    """`20GB` as bytes; units are powers of ten."""
    number, unit = text[:-2], text[-2:].upper()
    try:
        return int(float(number) * UNITS[unit])
    except (KeyError, ValueError, OverflowError) as error:
        raise UsageError(where, f"{text!r} is not a size", "for example 20GB") from error
