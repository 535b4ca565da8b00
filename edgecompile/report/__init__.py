"""What a check found, as frozen data: rows of one metric each, and the verdict over them."""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from edgecompile.metrics import Better, Measurement
from edgecompile.statistics.evidence import Evidence
from edgecompile.statistics.verdicts import Errors, weigh

Verdict = Literal["pass", "fail", "unproven"]
NOT_RUN = "not-run"  # a device that no engine here stands for, and the name that allows it
RowVerdict = Literal["pass", "fail", "unproven", "measured"]  # measured: nothing was asked of it


@dataclass(frozen=True)
class Row:
    """One metric of one step; `limit` None where there is none; `detail` names what differs."""

    step: str
    metric: str
    value: float
    limit: float | None
    unit: str
    better: Better
    verdict: RowVerdict
    samples: int
    detail: str = ""
    low: float | None = None  # the interval's ends, where samples bound the value
    high: float | None = None
    needed: int | None = None  # samples that would prove half of what the limit allows; 0: these do
    ideal: float | None = None  # the value that loses nothing, of a metric of the user's own
    # The samples behind the value, for a baseline; not in the report.
    evidence: Evidence | None = field(default=None, compare=False, repr=False)
    times_ms: tuple[float, ...] = field(default=(), compare=False, repr=False)  # of each call

    @property
    def open(self) -> bool:
        """Whether more samples may decide it."""
        return self.verdict == "unproven" and self.low is not None


@dataclass(frozen=True)
class StageValue:
    """A metric's value after one stage, against the source, on the inputs of the export's check.

    Against the model that came in where the metric's name begins with `kept_`.
    """

    stage: str  # windowed, pruned, distilled, quantized, learned, graph or runtime, in this order
    metric: str
    value: float
    samples: int


@dataclass(frozen=True)
class CheckReport:
    """The verdict on one sealed bundle; holds no text of the user's."""

    bundle: str  # folder name
    manifest_sha256: str
    model: str
    task: str
    target: str
    width: str  # float, int8, int4: the limits' column
    engine: str
    engine_version: str
    rows: tuple[Row, ...]
    proven_on: Mapping[str, str]  # cpu, level, device: real, emulated, software or not-run
    data: Mapping[str, str]  # name and digests of the text
    samples: Mapping[str, int]
    allowed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    stages: tuple[StageValue, ...] = ()
    ranking: tuple[Mapping[str, Any], ...] = ()  # of --relock: the backends measured, fastest first
    latencies_ms: tuple[float, ...] = ()  # of the timed calls of what is no decoder
    picture_latencies_ms: tuple[float, ...] = ()  # of a model of texts and pictures
    first_tokens_ms: tuple[float, ...] = ()  # of a decoder's timed prompts
    tokens_ms: tuple[float, ...] = ()  # of the tokens after the first

    @property
    def verdict(self) -> Verdict:
        """`fail` where any row fails, else `unproven` where any is, else `pass`."""
        found = {row.verdict for row in self.rows}
        if "fail" in found:
            return "fail"
        return "unproven" if "unproven" in found or "pass" not in found else "pass"

    @property
    def accepted(self) -> bool:
        """Passed; or allowed by name not to have been run, where nothing fails."""
        if self.verdict == "unproven":
            return NOT_RUN in self.allowed and self.proven_on.get("device") == NOT_RUN
        return self.verdict == "pass"

    @property
    def culprit(self) -> str:
        """The stage at which what broke went wrong; empty where nothing did."""
        from edgecompile.report.attribution import culprit

        return culprit(self)

    @property
    def where(self) -> str:
        """What proved it, for a person."""
        cpu, level, device = (self.proven_on.get(key, "") for key in ("cpu", "level", "device"))
        if device == NOT_RUN:
            known = f", allowed by name: {NOT_RUN}" if self.accepted else ""
            return f"not run, as no engine here can{known}"
        gpu = self.proven_on.get("gpu", "")
        return f"proven on {', '.join(filter(None, (gpu, cpu or 'unknown', level)))} ({device})"

    def value(self, metric: str) -> float | None:
        """The value of a metric, None where it was not measured."""
        return next((row.value for row in self.rows if row.metric == metric), None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; a value that is no finite number becomes null."""
        plain = replace(self, rows=tuple(replace(row, evidence=None) for row in self.rows))
        data = asdict(plain) | {"format": 1, "verdict": self.verdict}
        for row in data["rows"]:
            del row["evidence"], row["times_ms"]
            row |= {key: _finite(row[key]) for key in ("value", "low", "high")}
        for stage in data["stages"]:
            stage["value"] = _finite(stage["value"])
        return data | {"culprit": self.culprit}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def judged(
    step: str, measured: Measurement, limit: float | None = None, detail: str = ""
) -> Row:
    """The row of a measurement: within its limit is pass, no limit is measured, else fail."""
    verdict: RowVerdict = "measured"
    if limit is not None:
        verdict = "pass" if measured.within(limit) else "fail"
    elif math.isnan(measured.value):
        verdict = "fail"
    return Row(
        step, measured.metric, measured.value, limit, measured.unit, measured.better, verdict,
        measured.samples, detail, ideal=measured.ideal, evidence=measured.evidence,
    )  # fmt: skip


def weighed(
    step: str, measured: Measurement, limit: float | None, errors: Errors, detail: str = ""
) -> Row:
    """The row of a measurement with evidence: by its interval, with these error rates."""
    if limit is None or measured.evidence is None or math.isnan(measured.value):
        return judged(step, measured, limit, detail)
    found = weigh(measured, limit, errors)
    row = judged(step, measured, limit, "; ".join(filter(None, (detail, found.why))))
    return replace(
        row, verdict=found.verdict, low=found.low, high=found.high, needed=found.needed
    )


def exact(step: str, metric: str, differing: list[str], compared: int) -> Row:
    """The row of an exact comparison: how many differ (the limit is 0), with their names."""
    shown = ", ".join(differing[:5]) + (f" and {len(differing) - 5} more" if differing[5:] else "")
    measured = Measurement(metric, float(len(differing)), "", "lower", compared)
    return judged(step, measured, 0.0, shown)


def unproven(step: str, metric: str, why: str) -> Row:
    """A metric that could not be measured: never a pass."""
    return Row(step, metric, math.nan, None, "", "lower", "unproven", 0, why)
