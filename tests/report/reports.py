"""Reports to draw and to write, with everything in them that a check may say."""

from __future__ import annotations

import math
from dataclasses import replace

from edgecompile.metrics import Measurement
from edgecompile.report import CheckReport, Row, exact, judged, unproven


def row(
    metric: str, value: float, limit: float | None, better: str = "lower", **more: object
) -> Row:
    """A row of step `quality` of 256 samples."""
    measured = Measurement(metric, value, "", better, 256)  # type: ignore[arg-type]
    return replace(judged("quality", measured, limit), **more)  # type: ignore[arg-type]


COSINE = row("cosine_mean", 0.999, 0.99, "higher", low=0.998, high=0.9995, needed=0)
KL = row("kl_mean", 0.5, 0.25, low=0.4, high=0.6)
OPEN = row("accuracy_ratio", 0.98, 0.97, "higher", low=0.96, high=0.99, verdict="unproven",
           needed=1024, detail="256 samples leave [0.96, 0.99]")  # fmt: skip
BROKEN = row("kl_p999", math.nan, 9.6)
MISSING = unproven("quality", "rank_correlation", "no source model was given")
SAME = exact("sealed", "codes_differing", [], 20)
DIRTY = exact("sealed", "facts_differing", ["</script><b>&|`@here`\x00"], 3)
SIZE = judged("cost", Measurement("size", 24.9, "MB", "lower", 1))
ALL = (SAME, DIRTY, SIZE, COSINE, KL, OPEN, BROKEN, MISSING)


def report(*rows: Row) -> CheckReport:
    """A report of these rows, by default of all."""
    return CheckReport(
        "m-cpu", "ab" * 32, "m", "embedding", "cpu", "int8", "onnxruntime", "1.31.1", rows or ALL,
        {"cpu": "a CPU", "level": "x86-64-v3", "device": "real"}, {"name": "docstrings"},
        {"texts": 256, "seed": 0}, ("no-gain",), ("a <note>",), {"cost": 1.5, "engine": 2.25},
    )  # fmt: skip
