"""A report on disk: report.json for programs, report.html and .md for people, junit.xml for CI."""
from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

from edgecompile.report import CheckReport, page
from edgecompile.report.comment import markdown
from edgecompile.report.junit import junit


def folder_of(bundle: Path) -> Path:
    """`<bundle>.report`, beside the bundle: the sealed folder holds nothing measured."""
    return bundle.with_name(bundle.name + ".report")


def write_reports(report: CheckReport, folder: Path) -> None:
    """Write the files into a new `folder`, replacing an older report as a whole.

    What `explain` found of the very same bytes stays.
    """
    draft = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    text = json.dumps(report.to_json(), indent=2, sort_keys=True, allow_nan=False)
    (draft / "report.json").write_text(text + "\n", "utf-8")
    (draft / "report.md").write_text(markdown(report), "utf-8")
    (draft / "junit.xml").write_text(junit(report, datetime.now(UTC)), "utf-8")
    if page.explained(folder, report.manifest_sha256):
        shutil.copyfile(folder / page.EXPLAINED, draft / page.EXPLAINED)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    page.write(folder)
