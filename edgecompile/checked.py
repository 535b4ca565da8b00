"""A check that passed is not measured again: same bytes, same machine, same code, same text."""
from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from edgecompile import cache, host
from edgecompile.checks import Limits
from edgecompile.checks.device import is_for_gpu
from edgecompile.model import Model
from edgecompile.report import CheckReport
from edgecompile.report.reading import from_json
from edgecompile.runtime.manifest import Manifest
from edgecompile.text import Corpus

ROOT = Path(__file__).parent
REPORT = "report.json"
NOTE = "the same bytes passed this check on this machine before: its figures are from then"


def reuse(
    info: Manifest, model: Model, corpus: Corpus, limits: Limits, check: Callable[[], CheckReport]
) -> tuple[CheckReport, bool]:
    """The report, and whether an earlier build's was taken: only one that passed is kept.

    The key holds the manifest's SHA-256 (which holds every file's), the source, the text, the
    limits, the processor and its usable cores, the engine's version and all our sources. A GPU's
    bundle is always checked: which device is here is known only by opening it. So is one with
    metrics of the user's own, whose code may read anything.
    """
    if is_for_gpu(info.data) or limits.metrics:
        return check(), False
    here = host.host()
    key = cache.key(
        "check", modules=_modules(), manifest=info.digest, source=model.source.digest,
        origin=model.origin.source.digest if model.origin else "",
        corpus=dict(corpus.digests), limits=dataclasses.asdict(limits),
        machine=[here.cpu, here.level, here.cores], task=info.task,
        engine=cache.library_versions(str(info.data["target_options"]["backend"])),
    )  # fmt: skip
    done = cache.finished("check", key)
    if done is not None:
        found = read(done / REPORT)
        return dataclasses.replace(found, notes=(*found.notes, NOTE)), True
    report = check()
    if report.verdict == "pass":
        text = json.dumps(report.to_json(), sort_keys=True, allow_nan=False)
        cache.stage("check", key, lambda folder: _write(folder / REPORT, text))
    return report, False


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def read(file: Path) -> CheckReport:
    """A report from its JSON; a value that was no number is NaN again."""
    return from_json(json.loads(file.read_text(encoding="utf-8")))


def _modules() -> tuple[str, ...]:
    """All of ours: whatever changes, the next build checks again."""
    files = sorted(ROOT.rglob("*.py"))
    parts = (file.relative_to(ROOT.parent).with_suffix("").parts for file in files)
    return tuple(".".join(part) for part in parts if not part[-1].startswith("__"))
