from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edgecompile import checked, shelf
from edgecompile.report.reading import from_json
from tests.report.reports import report

ROOT = Path(__file__).resolve().parents[2]
OLDER = sorted(Path(__file__).with_name("older").glob("*.json"))  # as earlier versions wrote them


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    table = json.loads((ROOT / "docs" / "report.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(table)
    return jsonschema.Draft202012Validator(table)


def found() -> dict[str, Any]:
    return json.loads(json.dumps(report().to_json(), allow_nan=False))  # type: ignore[no-any-return]


def test_a_report_fits_the_published_schema(schema: jsonschema.Draft202012Validator) -> None:
    schema.validate(found())


@pytest.mark.parametrize("file", OLDER, ids=lambda file: file.stem)
def test_a_report_of_an_older_version_fits(
    schema: jsonschema.Draft202012Validator, file: Path
) -> None:
    schema.validate(json.loads(file.read_text("utf-8")))


def test_what_stages_and_latencies_add_fits(schema: jsonschema.Draft202012Validator) -> None:
    stage = {"stage": "quantized", "metric": "kl_mean", "value": 0.1, "samples": 256}
    times = {"latencies_ms": [1.5, 2.0], "first_tokens_ms": [20.0], "tokens_ms": [1.0, 1.5]}
    more = {"stages": [stage], "culprit": "quantized: a.weight", **times}
    schema.validate(found() | more)


@pytest.mark.parametrize(
    ("key", "value"),
    [("verdict", "passed"), ("format", 2), ("manifest_sha256", "ab"), ("rows", [{"step": "cost"}])],
)
def test_another_shape_does_not_fit(
    schema: jsonschema.Draft202012Validator, key: str, value: object
) -> None:
    assert not schema.is_valid(found() | {key: value})


@pytest.mark.parametrize("file", OLDER, ids=lambda file: file.stem)
def test_a_report_of_an_older_version_is_read(file: Path) -> None:
    read = checked.read(file)
    assert read.verdict == "pass"
    assert {row.low for row in read.rows} == {None}


def test_a_key_that_is_not_known_is_left_out() -> None:
    table = found()
    table["rows"][0]["later"] = table["later"] = 1
    assert from_json(table).rows[0] == from_json(found()).rows[0]


def test_reading_gives_what_was_written() -> None:
    again = from_json(found())
    assert again.to_json() == report().to_json()
    assert math.isnan(again.value("kl_p999") or 0.0)


def test_the_schema_names_every_key_of_a_report() -> None:
    table = json.loads((ROOT / "docs" / "report.schema.json").read_text("utf-8"))
    assert set(found()) <= set(table["properties"])
    assert set(found()["rows"][0]) <= set(table["$defs"]["row"]["properties"])


def test_a_checkout_finds_the_schema() -> None:
    assert shelf.report_schema() == ROOT / "docs" / "report.schema.json"
