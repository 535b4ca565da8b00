"""How often a check, or a comparison of releases, cries wolf; and what it does find.

    python benchmarks/false_alarms.py resample OLD.json [NEW.json] [--draws 10000]
    python benchmarks/false_alarms.py repeat MODEL [--data DIR] [--checks 200] [--builds 20]

`resample` draws documents with replacement from recorded releases (check --record). With two of the
same samples each document's answers are given to either side by a coin: no side is worse, and the
pairs differ as two real builds do. With one, two sets are drawn and compared as `--unpaired`. Then
a loss is planted. `repeat` builds a model again and again, each time with an empty cache, and
checks it with other seeds and thread counts; give it the smallest model there is.
"""
from __future__ import annotations

import argparse
import hashlib
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecompile import host
from edgecompile.releases import baseline_file
from edgecompile.releases.baseline import JUDGED, Baseline, Kept
from edgecompile.releases.regression import Rule, compare, estimate, verdict_of
from edgecompile.report import CheckReport, Row

LOSSES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)  # shares of what the limit allows
OTHER_FILES = "0" * 64
FULL, NO_FAIL = 10, "pass or unproven"  # draws whose intervals are all made; of the others
Drawn = tuple[Baseline, Baseline]


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def machine() -> str:
    """The processor, its load and the versions of what decides."""
    names = ("numpy", "scipy", "onnxruntime", "torch")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    here, load = host.host(), os.getloadavg()[0]
    return (f"{here.cpu} {here.level}, {here.cores} cores, load {load:.1f}, "
            f"Python {platform.python_version()}, {versions}")  # fmt: skip


def documents(kept: Kept, chosen: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Samples of documents drawn with replacement, and of which draw each is."""
    order = np.argsort(kept.groups, kind="stable")
    starts = np.searchsorted(kept.groups[order], np.arange(kept.groups.max() + 2))
    parts = [order[starts[one] : starts[one + 1]] for one in chosen]
    return np.concatenate(parts), np.repeat(np.arange(len(parts)), list(map(len, parts)))


def count(kept: Kept) -> int:
    """Documents."""
    return int(kept.groups.max()) + 1


def paired_draw(old: Baseline, new: Baseline, rng: np.random.Generator) -> Drawn:
    """The same documents of both, each given to either side by a coin."""
    sides: tuple[list[Kept], list[Kept]] = ([], [])
    seeds: dict[int, tuple[NDArray[np.int64], NDArray[np.bool_]]] = {}
    for one, other in judged(old, new):
        n = count(one)
        if n not in seeds:  # metrics of the same documents are drawn together
            seeds[n] = rng.integers(0, n, n), rng.random(n) < 0.5
        chosen, coin = seeds[n]
        at, groups = documents(one, chosen)
        swap = coin[groups]
        first = np.where(swap, other.values[at], one.values[at])
        second = np.where(swap, one.values[at], other.values[at])
        for side, values in zip(sides, (first, second), strict=True):
            side.append(replace(one, values=values, groups=groups))
    return bare(old, sides[0]), bare(new, sides[1])


def unpaired_draw(old: Baseline, rng: np.random.Generator) -> Drawn:
    """Two sets of documents of one release."""
    found = []
    for _ in range(2):
        chosen: dict[int, NDArray[np.int64]] = {}
        kept = []
        for one, _ in judged(old, old):
            n = count(one)
            if n not in chosen:
                chosen[n] = rng.integers(0, n, n)
            at, groups = documents(one, chosen[n])
            kept.append(replace(one, values=one.values[at], groups=groups))
        found.append(bare(old, kept))
    return found[0], found[1]


def judged(old: Baseline, new: Baseline) -> Iterator[tuple[Kept, Kept]]:
    """Metrics with samples and a limit, of both; cut to the samples they share."""
    there = {(k.step, k.metric): k for k in new.metrics}
    for one in old.metrics:
        other = there.get((one.step, one.metric))
        if one.step in JUDGED and one.kind != "point" and one.limit is not None and other:
            n = min(len(one.values), len(other.values))
            yield (replace(one, values=one.values[:n], groups=one.groups[:n]),
                   replace(other, values=other.values[:n], groups=other.groups[:n]))


def bare(of: Baseline, kept: Sequence[Kept]) -> Baseline:
    """A release of these metrics alone, of other files."""
    return Baseline(replace(of.header, files_sha256=OTHER_FILES), tuple(kept), ())


def worse(of: Baseline, share: float) -> Baseline:
    """Every metric worse by a share of what its limit allows."""
    return replace(of, metrics=tuple(_worse(kept, share) for kept in of.metrics))


def _worse(kept: Kept, share: float) -> Kept:
    from edgecompile.metrics import Measurement
    from edgecompile.statistics.verdicts import ideal

    assert kept.limit is not None
    measured = Measurement(kept.metric, kept.value, kept.unit, kept.better, kept.samples)
    room = share * abs(kept.limit - ideal(measured, kept.limit))
    if kept.kind == "tail":  # the mean's loss moves it
        return kept
    if kept.kind == "share":
        lost = np.random.default_rng(0).random(len(kept.values)) < room
        return replace(kept, values=np.where(lost, 0.0, kept.values))
    if kept.kind == "ratio":
        room = float(np.log1p(room))
    return replace(kept, values=kept.values + (room if kept.better == "lower" else -room))


def resample(
    old: Baseline, new: Baseline | None, draws: int, seconds: float, tolerance: float
) -> None:  # fmt: skip
    """The share of draws whose verdict is fail: of nothing, then of planted losses."""
    paired = new is not None
    what = "paired, a coin swaps two builds" if paired else "unpaired, two draws of one build"
    header, rule = old.header, Rule(tolerance, unpaired=not paired)
    other = f" and {new.header.target}" if new else ""
    print(f"\n{header.model} for {header.target}{other}: {what}, tolerance {tolerance:g}")
    print("| planted loss, share of the limit's room | draws | failed | fail | unproven | pass "
          "| pass or unproven |")
    print("|---|---|---|---|---|---|---|")
    for share in LOSSES:
        row = Counter[str]()
        start, wanted = time.monotonic(), draws if share == 0 else 2 * FULL
        for number in range(wanted):
            if time.monotonic() - start > (seconds if share == 0 else seconds / 20):
                break
            rng = np.random.default_rng([7, number])
            first, second = paired_draw(old, new, rng) if new else unpaired_draw(old, rng)
            if share == 0 and number >= FULL and not may_fail(first, second, rule):
                row[NO_FAIL] += 1
                continue
            row[verdict_of(compare(first, worse(second, share), rule))] += 1
        total = sum(row.values())
        cells = " | ".join(f"{row[v]}" for v in ("fail", "unproven", "pass", NO_FAIL))
        print(f"| {share:g} | {total} | {row['fail'] / total:.2%} | {cells} |", flush=True)


def may_fail(old: Baseline, new: Baseline, rule: Rule) -> bool:
    """Whether any loss itself is beyond what is allowed: a bound only where it is."""
    for one, other in zip(old.metrics, new.metrics, strict=True):
        loss, allowed = estimate(one, other, rule)
        if allowed is not None and loss > allowed:
            return True
    return False


def digest(bundle: Path) -> str:
    """SHA-256 over all files of a folder."""
    whole = hashlib.sha256()
    for file in sorted(f for f in bundle.rglob("*") if f.is_file()):
        whole.update(file.relative_to(bundle).as_posix().encode() + b"\0" + file.read_bytes())
    return whole.hexdigest()


def rebuild(model: str, target: str, data: Path | None, folder: Path) -> CheckReport:
    """One build with an empty cache."""
    from edgecompile.build import build
    from edgecompile.plan import Request, plan

    os.environ["EDGECOMPILE_CACHE"] = str(folder / "cache")
    request = Request(model, (target,), folder / "dist", data=data)
    return next(build(plan(request), quiet)).report


def repeat(
    model: str, target: str, data: Path | None, builds: int, checks: int, seconds: float
) -> None:  # fmt: skip
    """Rebuild, then check the last bundle again; half of `seconds` for each."""
    found, verdicts = Counter[str](), Counter[str]()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        number = 0
        while number < builds and (number < 1 or time.monotonic() - start < seconds / 2):
            folder = Path(place) / str(number)
            report = rebuild(model, target, data, folder)
            verdicts[report.verdict] += 1
            bundle = next(p for p in (folder / "dist").iterdir() if not p.name.endswith(".report"))
            found[digest(bundle)] += 1
            number += 1
        print(f"{number} rebuilds with empty caches: {len(found)} different, {dict(verdicts)}, "
              f"{(time.monotonic() - start) / number:.1f} s each", flush=True)  # fmt: skip
        check_again(bundle, model, data, checks, seconds / 2)


def check_again(
    bundle: Path, model: str, data: Path | None, checks: int, seconds: float
) -> None:  # fmt: skip
    """The bundle's check with other seeds and threads, each compared with the first as well."""
    from edgecompile import build, sources
    from edgecompile.check import check_bundle
    from edgecompile.checks import Limits
    from edgecompile.releases import baseline
    from edgecompile.runtime.manifest import read_manifest
    from edgecompile.target import Budget

    ref, info = sources.resolve(model), read_manifest(bundle)
    source = replace(sources.load(ref, quiet), name=info.name)
    corpus = build.corpus_of(ref.recipe, data, source.task)
    budget = Budget(**info.data["target_options"]["budget"])
    verdicts, compared, costs, bad = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    first: Baseline | None = None
    start, number = time.monotonic(), 0
    while number < checks and time.monotonic() - start < seconds:
        limits = replace(Limits.of(ref.recipe.check, budget), seed=number, threads=1 + number % 4)
        report = check_bundle(bundle, source, corpus, limits, quiet)
        verdicts[report.verdict] += 1
        bad.update(row.metric for row in report.rows if row.verdict in ("fail", "unproven"))
        now = baseline.of_report(report, info)
        now = replace(now, header=replace(now.header, seed=0))
        first = first or now
        rows = compare(first, now, Rule())
        compared[verdict_of(rows)] += 1
        bad.update(row.metric for row in rows if row.verdict in ("fail", "unproven"))
        costs.update(timing(first, now))
        number += 1
    print(f"{number} checks over seeds 0 to {number - 1} and 1 to 4 threads: {dict(verdicts)}; "
          f"compared with the first: {dict(compared)}; not passed: {dict(bad)}; "
          f"{(time.monotonic() - start) / max(1, number):.1f} s each")  # fmt: skip
    print(f"times, had the machine not counted as busy: {dict(costs)}")


def timing(first: Baseline, now: Baseline) -> Iterator[str]:
    """Which costs would be said to have grown."""
    sides = (replace(one, header=replace(one.header, busy=False)) for one in (first, now))
    rows: Sequence[Row] = compare(*sides, Rule())
    return (f"{r.metric} {r.verdict}" for r in rows if "_grown" in r.metric)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("resample")
    one.add_argument("old", type=Path)
    one.add_argument("new", type=Path, nargs="?")
    one.add_argument("--tolerance", type=float, default=Rule.tolerance)
    one.add_argument("--draws", type=int, default=10_000)
    one.add_argument("--seconds", type=float, default=3600)
    two = commands.add_parser("repeat")
    two.add_argument("model")
    two.add_argument("--target", default="cpu")
    two.add_argument("--data", type=Path)
    two.add_argument("--builds", type=int, default=20)
    two.add_argument("--checks", type=int, default=200)
    two.add_argument("--seconds", type=float, default=3600)
    chosen = parser.parse_args()
    print(machine())
    if chosen.command == "resample":
        new = baseline_file.read(chosen.new) if chosen.new else None
        resample(baseline_file.read(chosen.old), new, chosen.draws, chosen.seconds,
                 chosen.tolerance)  # fmt: skip
    else:
        repeat(chosen.model, chosen.target, chosen.data, chosen.builds, chosen.checks,
               chosen.seconds)  # fmt: skip


if __name__ == "__main__":
    main()
