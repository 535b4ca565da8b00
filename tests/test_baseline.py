"""Recorded releases: what a file keeps, which files are refused, what counts as a regression."""
from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import random
import string
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.build import build
from edgecompile.cli import cli
from edgecompile.errors import BadInputError, LimitError, UsageError
from edgecompile.metrics import Measurement, rank
from edgecompile.plan import Request, plan
from edgecompile.releases import baseline_file, release
from edgecompile.releases.baseline import Baseline, Cost, Header, Kept, pseudo_values, single
from edgecompile.releases.regression import Rule, compare, verdict_of
from edgecompile.report import CheckReport, Row, judged
from edgecompile.statistics.evidence import Function
from tests.tiny import TEXT, bert

HEADER = Header(
    "m", "embedding", "cpu", "", "int8", "pass", "a" * 64, "b" * 64, "c" * 64,
    {"name": "d", "held_out": "e" * 64}, 0, "onnxruntime", "1.0", "a cpu", "x86-64-v3", "real",
    False,
)  # fmt: skip
TEXTS = 400
ALPHABET = string.ascii_letters + string.digits + "+/="
SIZE = Cost("size", "MB", "lower", 10.0, 10.0, 10.0)
LATENCY = Cost("latency", "ms", "lower", 2.0, 1.9, 2.1)
OTHER = {"manifest_sha256": "1" * 64, "files_sha256": "2" * 64}  # another build


def noise(seed: int = 0, scale: float = 1e-3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).exponential(scale, TEXTS)


def cosine(values: np.ndarray[Any, Any], limit: float | None = 0.99) -> Kept:
    return Kept("quality", "cosine_mean", "mean", "", "higher", float(values.mean()), limit,
                len(values), single(values), np.arange(len(values)))  # fmt: skip


def agreement(values: np.ndarray[Any, Any]) -> Kept:
    return Kept("quality", "class_agreement", "share", "", "higher", float(values.mean()), 0.9,
                len(values), single(values), np.arange(len(values)))  # fmt: skip


def release_of(*metrics: Kept, costs: tuple[Cost, ...] = (SIZE,), **header: Any) -> Baseline:
    return Baseline(dataclasses.replace(HEADER, **header), metrics, costs)


def row(rows: tuple[Row, ...], metric: str) -> Row:
    return next(one for one in rows if one.metric == metric)


OLD = release_of(cosine(1 - noise()), agreement(np.ones(TEXTS)), costs=(SIZE, LATENCY))


# what a file keeps


FLOATS = st.lists(st.floats(width=32), min_size=1, max_size=50)


@settings(max_examples=50, deadline=None)
@given(values=FLOATS, value=st.floats(-1e9, 1e9), limit=st.none() | st.floats(0, 1))
def test_a_file_gives_back_every_number(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], value: float,
    limit: float | None,
) -> None:  # fmt: skip
    file = tmp_path_factory.mktemp("files") / "cpu.json"
    kept = Kept("quality", "kl_mean", "mean", "nats", "lower", value, limit, len(values),
                np.array(values), np.arange(len(values)))  # fmt: skip
    baseline_file.write(release_of(kept), file)
    found = baseline_file.read(file)
    assert np.array_equal(found.metrics[0].values, kept.values, equal_nan=True)
    assert np.array_equal(found.metrics[0].groups, kept.groups)
    assert (found.metrics[0].value, found.metrics[0].limit) == (value, limit)
    assert (found.header, found.costs) == (HEADER, (SIZE,))


def test_the_same_numbers_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        baseline_file.write(OLD, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_samples_that_metrics_share_are_stored_once(tmp_path: Path) -> None:
    one = cosine(1 - noise())
    baseline_file.write(release_of(one, dataclasses.replace(one, metric="x")), tmp_path / "a")
    assert len(json.loads((tmp_path / "a").read_text())["arrays"]) == 2


def packed(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw)).decode()


FAULTS: dict[str, Any] = {
    "another format": lambda t: t.update(format=2),
    "no header": lambda t: t.pop("header"),
    "an unknown key": lambda t: t.update(more=1),
    "a folder in the name": lambda t: t["header"].update(model="../../etc"),
    "a name of a megabyte": lambda t: t["header"].update(cpu="x" * (1 << 20)),
    "busy of no kind": lambda t: t["header"].update(busy=0),
    "no base64": lambda t: t["arrays"].__setitem__(0, "!"),
    "no zlib": lambda t: t["arrays"].__setitem__(0, "AAAA"),
    "cut short": lambda t: t["arrays"].__setitem__(0, t["arrays"][0][:-8]),
    "half a number": lambda t: t["arrays"].__setitem__(0, packed(b"12345")),
    "a bomb": lambda t: t["arrays"].__setitem__(0, packed(bytes(17 << 20))),
    "an array that is not there": lambda t: t["metrics"][0].update(values=99),
    "an array of no number": lambda t: t["metrics"][0].update(values=True),
    "other groups": lambda t: t["metrics"][0].update(groups=t["metrics"][1]["groups"]),
    "a kind of its own": lambda t: t["metrics"][0].update(kind="median"),
    "a share that is none": lambda t: t["metrics"][0].update(kind="share"),
    "a limit that is a text": lambda t: t["metrics"][0].update(limit="0.9"),
    "a cost of 10^400": lambda t: t["costs"][0].update(value=10**400),
    "a cost of its own": lambda t: t["costs"][0].update(metric="beauty"),
    "metrics that are no list": lambda t: t.update(metrics={}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_file_is_bad_input(fault: str, tmp_path: Path) -> None:
    short = dataclasses.replace(cosine(1 - noise()[:7]), metric="short")
    baseline_file.write(release_of(cosine(1 - noise()), short), tmp_path / "a")
    table = json.loads((tmp_path / "a").read_text())
    FAULTS[fault](table)
    (tmp_path / "a").write_text(json.dumps(table))
    with pytest.raises(BadInputError, match="--record"):
        baseline_file.read(tmp_path / "a")


@pytest.mark.parametrize("text", ["", "{", "NaN", "[]", "[" * 100_000, '{"format": Infinity}'])
def test_what_is_no_baseline_is_bad_input(text: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(BadInputError):
        baseline_file.read(tmp_path / "a")


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 1 << 20), byte=st.integers(0, 255))
def test_one_changed_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int
) -> None:
    file = tmp_path_factory.mktemp("files") / "a"
    baseline_file.write(OLD, file)
    raw = bytearray(file.read_bytes())
    raw[at % len(raw)] = byte
    file.write_bytes(raw)
    with contextlib.suppress(BadInputError):
        assert isinstance(baseline_file.read(file), Baseline)


# what counts as a regression


def test_the_same_release_again_passes() -> None:
    assert verdict_of(compare(OLD, OLD, Rule())) == "pass"


def test_the_same_answers_of_other_files_leave_a_share_of_ones_unproven() -> None:
    again = dataclasses.replace(OLD, header=dataclasses.replace(HEADER, **OTHER))
    rows = compare(OLD, again, Rule())
    assert row(rows, "cosine_mean_lost").verdict == "pass"
    assert row(rows, "class_agreement_lost").verdict == "pass"  # 3.7 / 400 < 0.01
    rows = compare(OLD, again, Rule(tolerance=0.05))
    assert row(rows, "class_agreement_lost").verdict == "unproven"
    assert row(rows, "class_agreement_lost").needed


def test_a_small_loss_of_every_sample_fails() -> None:
    worse = release_of(cosine(1 - noise() - 0.0015), agreement(np.ones(TEXTS)), **OTHER)
    found = row(compare(OLD, worse, Rule()), "cosine_mean_lost")
    assert (found.verdict, found.limit) == ("fail", pytest.approx(0.001))


def test_a_gain_passes() -> None:
    better = release_of(cosine(1 - noise() / 2), agreement(np.ones(TEXTS)), **OTHER)
    assert row(compare(OLD, better, Rule()), "cosine_mean_lost").verdict == "pass"


def test_lost_agreement_fails() -> None:
    answers = np.ones(TEXTS)
    answers[::10] = 0
    worse = release_of(cosine(1 - noise()), agreement(answers), **OTHER)
    assert row(compare(OLD, worse, Rule()), "class_agreement_lost").verdict == "fail"


def test_a_metric_that_is_missing_is_no_pass() -> None:
    rows = compare(OLD, release_of(agreement(np.ones(TEXTS))), Rule())
    assert row(rows, "cosine_mean_lost").verdict == "unproven"
    assert verdict_of(rows) == "unproven"


def test_no_metric_at_all_is_no_pass() -> None:
    assert verdict_of(compare(OLD, release_of(costs=()), Rule())) == "unproven"


def test_nan_fails() -> None:
    values = 1 - noise()
    values[3] = np.nan
    rows = compare(OLD, release_of(cosine(values), agreement(np.ones(TEXTS))), Rule())
    assert row(rows, "cosine_mean_lost").verdict == "fail"


def test_nan_in_the_old_release_is_no_pass() -> None:
    values = 1 - noise()
    values[3] = np.nan
    rows = compare(release_of(cosine(values)), OLD, Rule())
    assert row(rows, "cosine_mean_lost").verdict == "unproven"


def test_a_release_that_failed_its_own_check_fails() -> None:
    bad = dataclasses.replace(OLD, header=dataclasses.replace(HEADER, verdict="fail"))
    assert verdict_of(compare(OLD, bad, Rule())) == "fail"


@pytest.mark.parametrize("changed", [
    {"data": {"held_out": "f" * 64}}, {"source_sha256": "f" * 64}, {"seed": 1},
])  # fmt: skip
def test_other_samples_are_refused_but_by_name(changed: dict[str, Any]) -> None:
    other = dataclasses.replace(OLD, header=dataclasses.replace(HEADER, **changed))
    with pytest.raises(UsageError, match="--unpaired"):
        compare(OLD, other, Rule())
    assert compare(OLD, other, Rule(unpaired=True))


def test_unpaired_samples_prove_less() -> None:
    worse = release_of(cosine(1 - noise() - 0.0012), agreement(np.ones(TEXTS)), **OTHER)
    paired, apart = (row(compare(OLD, worse, Rule(unpaired=u)), "cosine_mean_lost")
                     for u in (False, True))  # fmt: skip
    assert (paired.verdict, apart.verdict) == ("fail", "unproven")


def test_a_shorter_check_is_compared_on_the_samples_that_both_have() -> None:
    short = release_of(cosine(1 - noise()[:100]), agreement(np.ones(TEXTS)), **OTHER)
    found = row(compare(OLD, short, Rule()), "cosine_mean_lost")
    assert (found.verdict, found.samples) == ("pass", 100)


def test_a_doubled_tail_fails() -> None:
    values = noise(scale=0.1)
    tail = dataclasses.replace(cosine(values), metric="kl_p99", kind="tail", better="lower",
                               share=0.01, limit=3.0)  # fmt: skip
    spoilt = values.copy()
    spoilt[::10] += 5
    worse = dataclasses.replace(tail, values=single(spoilt))
    rows = compare(release_of(tail), release_of(worse, **OTHER), Rule())
    assert row(rows, "kl_p99_lost").verdict == "fail"


def test_a_statistic_of_all_samples_is_compared_by_its_jackknife_parts() -> None:
    rng = np.random.default_rng(0)
    source = rng.normal(size=TEXTS)
    near, far = (source + s * rng.normal(size=TEXTS) for s in (0.01, 0.3))
    sides = [rank.of_scores(source, found) for found in (near, far)]
    kept = [parts_of(side) for side in sides]
    found = row(compare(release_of(kept[0]), release_of(kept[1], **OTHER), Rule()),
                "rank_correlation_lost")  # fmt: skip
    assert found.verdict == "fail"
    assert found.value == pytest.approx(sides[0].value - sides[1].value, abs=0.005)


def parts_of(measured: Measurement) -> Kept:
    assert isinstance(measured.evidence, Function)
    values = single(pseudo_values(measured.evidence))
    return Kept("quality", measured.metric, "parts", "", "higher", measured.value, 0.98,
                measured.samples, values, np.arange(len(values)))  # fmt: skip


# costs


def drift(cost: Cost, **header: Any) -> Row:
    new = release_of(cosine(1 - noise()), agreement(np.ones(TEXTS)),
                     costs=(SIZE, cost) if cost.metric != "size" else (cost, LATENCY), **header)
    return row(compare(OLD, new, Rule()), f"{cost.metric}_grown")


def test_two_per_cent_of_size_fail() -> None:
    assert drift(dataclasses.replace(SIZE, value=10.2)).verdict == "fail"


def test_a_slower_release_fails() -> None:
    assert drift(dataclasses.replace(LATENCY, value=3.0, low=2.8, high=3.3)).verdict == "fail"


def test_time_within_the_spread_of_its_runs_is_only_measured() -> None:
    assert drift(dataclasses.replace(LATENCY, value=3.0, low=2.0, high=4)).verdict == "measured"


@pytest.mark.parametrize("header", [{"cpu": "another"}, {"engine_version": "2"}, {"busy": True}])
def test_time_of_another_machine_is_only_measured(header: dict[str, Any]) -> None:
    found = drift(dataclasses.replace(LATENCY, value=3.0, low=2.8, high=3.3), **header)
    assert found.verdict == "measured"
    assert "measured, not judged" in found.detail


def test_a_size_that_was_not_measured_is_no_pass() -> None:
    new = dataclasses.replace(OLD, costs=(LATENCY,))
    assert row(compare(OLD, new, Rule()), "size_grown").verdict == "unproven"


# with real checks


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two bundles of one model, in 8 bits and in 4."""

    old: Path
    new: Path
    reports: dict[str, CheckReport]


def sealed(model: Path, out: Path, *settings: str) -> tuple[Path, CheckReport]:
    settings = ("quantize.method=rtn", *settings)
    request = Request(str(model), ("cpu",), out, data=out.parent / "short.txt", settings=settings)
    result = next(build(plan(request), quiet))
    return result.bundle, result.report


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    place = tmp_path_factory.mktemp("releases")
    model, words = bert(place / "tiny-bert", seed=5), TEXT.split()
    order = random.Random(0)
    texts = [" ".join(order.choices(words, k=6)) for _ in range(1000)]
    (place / "short.txt").write_text("\n\n".join(texts))
    old, eight = sealed(model, place / "old", "quantize.bits=8")
    new, four = sealed(model, place / "new", "quantize.bits=4")
    return Pair(old, new, {"old": eight, "new": four})


@pytest.fixture(scope="module")
def reports(pair: Pair) -> dict[str, CheckReport]:
    return pair.reports


@pytest.fixture(scope="module")
def written(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("written"))
        file = release.record(pair.reports["old"], pair.old)
        assert file == Path("models/tiny-bert/baselines/cpu.json")
        return file.read_bytes()


@pytest.fixture
def recorded(written: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = Path("models/tiny-bert/baselines/cpu.json")
    file.parent.mkdir(parents=True)
    file.write_bytes(written)
    return file


def test_it_holds_every_metric_of_the_report(
    recorded: Path, reports: dict[str, CheckReport]
) -> None:
    rows = [r for r in reports["old"].rows if r.step in ("quality", "export")]
    found = baseline_file.read(recorded)
    assert [k.metric for k in found.metrics] == [r.metric for r in rows]
    assert {k.kind for k in found.metrics} == {"mean", "tail", "parts", "point"}


def test_it_holds_none_of_the_text(recorded: Path) -> None:
    table = json.loads(recorded.read_text())
    assert all(set(one) <= set(ALPHABET) for one in table.pop("arrays"))
    assert len(json.dumps(table)) < 20_000


def test_the_same_bundle_again_passes(
    recorded: Path, pair: Pair, reports: dict[str, CheckReport]
) -> None:
    old = release.measured(recorded, release.Request(), quiet)
    found = release.against(reports["old"], pair.old, old, Rule())
    rows = [r for r in found.rows if r.step == "baseline"]
    assert verdict_of(rows) == "pass"
    assert row(tuple(rows), "cosine_mean_lost").value == 0


def test_four_bits_after_eight_are_a_regression(
    recorded: Path, pair: Pair, reports: dict[str, CheckReport]
) -> None:
    old = release.measured(recorded, release.Request(), quiet)
    found = release.against(reports["new"], pair.new, old, Rule())
    assert "cosine_mean_lost" in [r.metric for r in found.rows if r.verdict == "fail"]
    assert found.verdict == "fail"


def test_a_recorded_release_of_another_source_is_not_replaced(
    recorded: Path, pair: Pair, reports: dict[str, CheckReport]
) -> None:
    table = json.loads(recorded.read_text())
    table["header"]["source_sha256"] = "0" * 64
    recorded.write_text(json.dumps(table))
    with pytest.raises(UsageError, match="another source"):
        release.record(reports["old"], pair.old)


def test_a_bundle_that_failed_is_not_recorded(
    recorded: Path, pair: Pair, reports: dict[str, CheckReport]
) -> None:
    before = recorded.read_bytes()
    nan = Measurement("kl_mean", float("nan"), "nats", "lower", 1)
    bad = dataclasses.replace(reports["old"], rows=(judged("quality", nan, 1.0),))
    with pytest.raises(LimitError, match="verdict fail"):
        release.record(bad, pair.old)
    assert recorded.read_bytes() == before


def test_compare_exits_6_on_a_regression_and_0_on_none(recorded: Path, tmp_path: Path) -> None:
    found, worse = baseline_file.read(recorded), tmp_path / "worse.json"
    metrics = [dataclasses.replace(k, values=k.values - 0.01) if k.metric == "cosine_mean" else k
               for k in found.metrics]  # fmt: skip
    baseline_file.write(Baseline(found.header, tuple(metrics), found.costs), worse)
    runner = CliRunner()
    failed = runner.invoke(cli, ["compare", str(recorded), str(worse)])
    assert isinstance(failed.exception, LimitError)
    assert "cosine_mean_lost" in failed.output
    same = runner.invoke(cli, ["compare", str(recorded), str(recorded), "--format", "json"])
    assert same.exit_code == 0
    assert json.loads(same.output)["verdict"] == "pass"
