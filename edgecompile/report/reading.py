"""A report from its JSON, of this version or an older one."""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from edgecompile.report import CheckReport, Row, StageValue

Part = TypeVar("Part", Row, StageValue)


def from_json(table: Mapping[str, Any]) -> CheckReport:
    """The report of a table as `CheckReport.to_json` makes it; null is NaN again.

    Keys that are not known are left out, and those that an older version lacked get their default.
    """
    return CheckReport(
        **_known(CheckReport, {key: _frozen(value) for key, value in table.items()
                               if key not in ("rows", "stages")}),
        rows=tuple(_of(Row, row) for row in table["rows"]),
        stages=tuple(_of(StageValue, one) for one in table.get("stages", ())),
    )  # fmt: skip


def _of(kind: type[Part], table: Mapping[str, Any]) -> Part:
    value = table["value"]
    return kind(**_known(kind, table) | {"value": float("nan") if value is None else value})


def _known(kind: Any, table: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in table.items() if name in names}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
