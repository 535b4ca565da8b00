"""A report from its JSON, of this version or an older one."""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgecompile.report import CheckReport, Row


def from_json(table: Mapping[str, Any]) -> CheckReport:
    """The report of a table as `CheckReport.to_json` makes it; null is NaN again.

    Keys that are not known are left out, and those that an older version lacked get their default.
    """
    return CheckReport(
        **_known(CheckReport, {key: _frozen(value) for key, value in table.items()
                               if key != "rows"}),
        rows=tuple(_row(row) for row in table["rows"]),
    )  # fmt: skip


def _row(table: Mapping[str, Any]) -> Row:
    value = table["value"]
    return Row(**_known(Row, table) | {"value": float("nan") if value is None else value})


def _known(kind: Any, table: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in table.items() if name in names}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
