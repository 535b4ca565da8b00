"""Builds with [distill_codes]: what ships is what was trained, on every target the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgecompile import build as builder
from edgecompile.build import BuildResult
from edgecompile.plan import Request, plan
from tests import tiny

SETTINGS = (
    "quantize.method=rtn", "quantize.bits=4", "distill_codes.texts=8", "distill_codes.length=24",
    "distill_codes.train.steps=3", "distill_codes.train.batch=4", "distill_codes.train.threads=1",
    "check.texts=4", "check.tokens=256",
)  # fmt: skip


def built(model: Path, out: Path, *targets: str) -> list[BuildResult]:
    request = Request(str(model), targets, out=out, settings=SETTINGS, allow=("no-gain",))
    return list(builder.build(plan(request), lambda *_: None))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[BuildResult]:
    folder = tmp_path_factory.mktemp("learned")
    return built(tiny.llama(folder / "model"), folder / "out", "cpu", "gguf")


def manifest(result: BuildResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((result.bundle / "manifest.json").read_text())
    return found


def test_the_sealed_codes_and_floats_are_the_learned_ones(results: list[BuildResult]) -> None:
    for result in results:
        rows = {row.metric: row.verdict for row in result.report.rows if row.step == "sealed"}
        assert rows["codes_differing"] == rows["floats_differing"] == "pass"


def test_two_engines_hold_the_same_learned_codes(results: list[BuildResult]) -> None:
    assert len({manifest(result)["weights_digest"] for result in results}) == 1


def test_codes_are_learned_once_for_all_targets(results: list[BuildResult]) -> None:
    assert "distill_codes" in results[1].reused


def test_the_manifest_says_what_was_learned(results: list[BuildResult]) -> None:
    told = manifest(results[0])["passes"][-1]
    assert told["name"] == "distill_codes"
    assert told["layers"][0]["detail"].startswith("distill_codes: 3 steps on 8 rows")


def test_both_parts_of_the_text_that_shaped_it_are_recorded(results: list[BuildResult]) -> None:
    assert manifest(results[0])["data"].keys() == {"name", "calibration", "tuning"}
