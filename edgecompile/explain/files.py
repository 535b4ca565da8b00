"""explain.json in `<bundle>.report/`: what the HTML report draws (docs/explain.md)."""
from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.explain import Explanation
from edgecompile.explain.yardstick import Distance
from edgecompile.report import page
from edgecompile.report.files import folder_of

NAME, FORMAT = "explain.json", 2


def write(found: Explanation) -> Path:
    """Write the file beside the check's reports, whole or not at all; draw their page anew."""
    file = folder_of(found.subject.options.bundle) / NAME
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{NAME}.new")
    text = json.dumps(to_json(found), indent=1, sort_keys=True, allow_nan=False)
    draft.write_text(text + "\n", encoding="utf-8")
    draft.replace(file)
    if (file.parent / "report.json").is_file():
        page.write(file.parent)
    return file


def to_json(found: Explanation) -> dict[str, Any]:
    """Plain JSON types; a number that is not finite becomes null."""
    what, unit = found.kind
    change = found.change
    data = {
        "format": FORMAT,
        "bundle": found.subject.options.bundle.name,
        "manifest_sha256": found.subject.manifest.digest,
        "task": found.subject.model.task,
        "data": {"name": found.subject.corpus.name, **found.subject.corpus.digests},
        "inputs": dict(found.inputs),
        "divergence": {"what": what, "unit": unit, "value": found.now.divergence},
        "metrics": dict(found.now.metrics),
        "limits": {n: found.limits[n] for n in found.now.metrics if n in found.limits},
        "broken": sorted(found.now.broken(found.limits)),
        "failed_check": None if found.failed is None else list(found.failed),
        "layers": [dataclasses.asdict(row) for row in found.noise],
        "restored": [dataclasses.asdict(row) for row in found.restored],
        "attention": _part(found.attention),
        "saliency": _part(found.saliency),
        "change": {
            "bits": dict(change.bits), "bytes": change.cost, "toml": found.toml, "why": change.why,
            "predicted": _distance(change.predicted),
            "limits": {n: change.limits[n] for n in found.now.metrics if n in change.limits},
        },
        "notes": list(found.notes),
    }  # fmt: skip
    plain: dict[str, Any] = _plain(data)
    return plain


def _distance(found: Distance | None) -> dict[str, float] | None:
    return None if found is None else {"divergence": found.divergence, **found.metrics}


def _part(found: Any) -> Any:
    """A part's fields, those of several, or why there is none."""
    if isinstance(found, str):
        return {"why": found}
    if isinstance(found, tuple):
        return {"parts": [dataclasses.asdict(one) for one in found]}
    return dataclasses.asdict(found)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.ndarray):
        return _plain(np.round(value.astype(float), 6).tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
