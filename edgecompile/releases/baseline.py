"""A recorded release: the samples behind its metrics, what it costs, and what was compared."""
from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from edgecompile import host
from edgecompile.checks.limits import COSTS
from edgecompile.metrics import Better
from edgecompile.report import CheckReport, Row
from edgecompile.runtime.manifest import Manifest
from edgecompile.statistics import resampled
from edgecompile.statistics.evidence import Evidence, Function, Mean, Paired, Share, Tail
from edgecompile.statistics.exact import Float64, Int64

JUDGED = ("quality", "kept")  # steps whose metrics have samples to compare
BUSY = 1.5  # load a core, from which on times say nothing
# How a metric comes from its values: their mean; e to it; their mean, but of jackknife parts of all
# samples; the share of ones; the value that a share of them is worse than; from none.
Kind = Literal["mean", "ratio", "parts", "share", "tail", "point"]


@dataclass(frozen=True, eq=False)
class Kept:
    """One metric: `values` and `groups` [samples] where `kind` needs them."""

    step: str
    metric: str
    kind: Kind
    unit: str
    better: Better
    value: float
    limit: float | None
    samples: int
    values: Float64 = field(default_factory=lambda: np.zeros(0))  # as float32 holds them
    groups: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    share: float = 0.0  # of a tail
    per: float = 1.0  # rate of the source's right answers, that a ratio of accuracies is over
    least: int = 0  # things counted, of pseudo-values of a count
    ideal: float | None = None  # the value that loses nothing, of a metric of the user's own

    @property
    def evidence(self) -> Evidence:
        """What bounds the value, of a metric that has samples."""
        if self.kind == "share":
            return Share(self.values, self.groups)
        if self.kind == "tail":
            return Tail(self.values, self.groups, self.share, self.better)
        return Mean(self.values, self.groups, self.kind == "ratio")


@dataclass(frozen=True)
class Cost:
    """A size, time or memory; `low` and `high` are the quartiles of repeated runs, else itself."""

    metric: str
    unit: str
    better: Better
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Header:
    """What was measured, of which bytes, with what and where."""

    model: str
    task: str
    target: str
    variant: str
    width: str
    verdict: str
    manifest_sha256: str
    files_sha256: str  # of the model's and the tokenizer's files
    source_sha256: str
    data: Mapping[str, str]  # name and digests
    seed: int
    engine: str
    engine_version: str
    cpu: str
    level: str
    device: str
    busy: bool  # other work on the machine: its times say nothing


@dataclass(frozen=True, eq=False)
class Baseline:
    """One release."""

    header: Header
    metrics: tuple[Kept, ...]
    costs: tuple[Cost, ...]


def of_report(report: CheckReport, info: Manifest) -> Baseline:
    """The baseline of a check of the bundle with this manifest."""
    steps = (*JUDGED, "export")
    metrics = tuple(_kept(row) for row in report.rows if row.step in steps)
    costs = tuple(_cost(row) for row in report.rows
                  if row.step == "cost" and row.metric in COSTS and math.isfinite(row.value))
    return Baseline(_header(report, info), metrics, costs)  # fmt: skip


def path_of(header: Header) -> Path:
    """Where `check --record` keeps it: ./models/<name>/baselines/<target>[-variant].json."""
    variant = f"-{header.variant}" if header.variant else ""
    return Path("models") / header.model / "baselines" / f"{header.target}{variant}.json"


def _header(report: CheckReport, info: Manifest) -> Header:
    proven = report.proven_on
    return Header(
        report.model, report.task, report.target, str(info.data.get("variant") or ""),
        report.width, "pass" if report.accepted else report.verdict, report.manifest_sha256,
        _files(info), str(info.data["source"]["digest"]), dict(report.data),
        int(report.samples["seed"]), report.engine, report.engine_version, proven.get("cpu", ""),
        proven.get("level", ""), proven.get("device", ""), busy(),
    )  # fmt: skip


def _files(info: Manifest) -> str:
    """SHA-256 over path and SHA-256 of what computes: the model and its tokenizer."""
    files = sorted((f.path, f.sha256) for f in info.files
                   if f.path.startswith(("model/", "tokenizer")))  # fmt: skip
    return hashlib.sha256(repr(files).encode()).hexdigest()


def busy() -> bool:
    """Whether others keep this machine busy, by its load of the last minute."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return load > BUSY * host.usable_cores()


def _cost(row: Row) -> Cost:
    ends = [row.value, row.value]
    if row.evidence is not None and np.isfinite(row.evidence.values).all():
        ends = np.quantile(row.evidence.values, [0.25, 0.75]).tolist()
    return Cost(row.metric, row.unit, row.better, row.value, *ends)


def _kept(row: Row) -> Kept:
    entry = _with_samples(row)
    if entry is not None:
        return entry
    return Kept(row.step, row.metric, "point", row.unit, row.better, row.value, row.limit,
                row.samples, ideal=row.ideal)  # fmt: skip


def _with_samples(row: Row) -> Kept | None:
    """The entry of a row with evidence that a comparison knows; else None."""
    found, kind, more = row.evidence, "mean", {}
    if row.step not in JUDGED or not isinstance(found, Mean | Share | Paired | Tail | Function):
        return None
    values, groups = found.values, found.groups
    if isinstance(found, Mean) and found.exponential:
        kind = "ratio"
    elif isinstance(found, Share):
        kind = "share"
    elif isinstance(found, Paired):
        kind, more = "share", {"per": float(np.mean(found.source))}
    elif isinstance(found, Tail):
        kind, more = "tail", {"share": found.share}
    elif isinstance(found, Function):
        kind, values, more = "parts", pseudo_values(found), {"least": found.smallest}
        groups = np.arange(len(values))
    return Kept(
        row.step, row.metric, kind, row.unit, row.better, row.value, row.limit,  # type: ignore[arg-type]
        row.samples, single(values), np.asarray(groups, np.int64), ideal=row.ideal,
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


def single(values: Float64) -> Float64:
    """As float32 holds them, so that a release and its file compare alike."""
    return np.asarray(values, np.float32).astype(np.float64)


def pseudo_values(evidence: Function) -> Float64:
    """Jackknife pseudo-values of a statistic over buckets of documents (Tukey 1958) [buckets].

    Their mean is the statistic but for its bias, and varies as it does; of the same documents the
    buckets are the same.
    """
    whole, left = resampled.left_out(evidence.statistic, evidence.groups, 0)
    return len(left) * whole - (len(left) - 1) * left
