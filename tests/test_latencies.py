"""The times of each call and token: measured, written into report.json, told and drawn."""
from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from edgecompile import checked, shelf
from edgecompile.build import BuildResult, build
from edgecompile.checks import costs
from edgecompile.metrics import cost
from edgecompile.plan import Request, plan
from edgecompile.report.files import folder_of
from tests import tiny


def built(place: Path, model: Path) -> BuildResult:
    request = Request(
        str(model), ("cpu",), place / "dist", allow=("no-gain",),
        settings=("quantize.method=rtn", "check.texts=20", "check.tokens=200"),
    )  # fmt: skip
    return next(build(plan(request), lambda *_: None))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    place = tmp_path_factory.mktemp("encoder")
    return built(place, tiny.bert(place / "tiny-bert"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    place = tmp_path_factory.mktemp("decoder")
    return built(place, tiny.llama(place / "tiny-llama"))


def test_an_encoder_s_calls_are_written(encoder: BuildResult) -> None:
    times = encoder.report.latencies_ms
    assert 20 <= len(times) <= costs.MOST_CALLS
    assert min(times) > 0
    latency = next(row for row in encoder.report.rows if row.metric == "latency")
    assert latency.samples == len(times)
    assert latency.detail == cost.spread([*latency.times_ms])


def test_a_decoder_s_first_tokens_and_tokens_are_written(decoder: BuildResult) -> None:
    report = decoder.report
    assert 3 <= len(report.first_tokens_ms) <= 20
    assert len(report.tokens_ms) == costs.GENERATIONS * (64 - 1)
    speed = next(row for row in report.rows if row.metric == "decode_speed")
    assert speed.detail.startswith("a token: median ")
    assert "99 % within" in speed.detail
    assert speed.samples == costs.GENERATIONS


def test_an_encoder_has_no_times_of_tokens(encoder: BuildResult) -> None:
    assert encoder.report.tokens_ms == encoder.report.first_tokens_ms == ()


def test_what_is_written_fits_the_schema_and_is_read_again(
    encoder: BuildResult, decoder: BuildResult
) -> None:
    schema = json.loads(shelf.report_schema().read_text("utf-8"))
    for result in (encoder, decoder):
        file = folder_of(result.bundle) / "report.json"
        jsonschema.Draft202012Validator(schema).validate(json.loads(file.read_text("utf-8")))
        assert checked.read(file).tokens_ms == result.report.tokens_ms
        assert checked.read(file).latencies_ms == result.report.latencies_ms


def test_the_pull_request_says_how_slow_the_slow_ones_are(encoder: BuildResult) -> None:
    text = (folder_of(encoder.bundle) / "report.md").read_text("utf-8")
    assert "ms (90 % within" in text


def test_calls_are_timed_on_only_while_that_is_short() -> None:
    import time

    quick = costs.timed(lambda: None, 3, 50)
    slow = costs.timed(lambda: time.sleep(0.3), 2, 50)
    assert len(quick) == 50
    assert 2 <= len(slow) < 6


def test_a_99th_percentile_needs_a_hundred_times() -> None:
    assert cost.spread([1.0] * 99) == "90 % within 1 ms, slowest 1 ms"
    assert cost.spread([*range(1, 101)]) == "90 % within 90 ms, 99 % within 99 ms"
