"""Tiny bundles on emulated processors, through `check --on`; wants qemu and the cross compiler."""
from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgecompile import build, plan
from edgecompile.cli import cli
from edgecompile.emulate.tools import find_tools
from edgecompile.errors import MissingLibraryError
from edgecompile.recheck import Recheck, recheck
from edgecompile.report import CheckReport
from tests import tiny


def lacking() -> str:
    """What is missing of qemu and the cross compiler, empty when nothing is."""
    try:
        find_tools()
    except MissingLibraryError as error:
        return str(error)
    return ""


MISSING = lacking()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]
MODELS = {"bert": tiny.bert, "llama": tiny.llama}


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


@pytest.fixture(scope="module", autouse=True)
def users_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The engines' libraries are large downloads: kept where the user keeps them."""
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgecompile"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGECOMPILE_CACHE", str(own))
        yield


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and its cpu bundle."""
    folder = tmp_path_factory.mktemp(request.param)
    model = MODELS[request.param](folder / f"tiny-{request.param}")
    asked = plan.Request(str(model), ("cpu",), folder / "dist", settings=("quantize.bits=8",))
    for result in build.build(plan.plan(asked), quiet):
        if result.bundle.name.endswith(".rejected"):  # random weights may miss a limit
            result.bundle.rename(folder / "dist" / result.bundle.stem)
    return folder


def bundle_of(case: Path) -> Path:
    return next(path.parent for path in (case / "dist").glob("*/manifest.json"))


@pytest.fixture(scope="module")
def report(case: Path) -> CheckReport:
    model = next(case.glob("tiny-*"))
    levels = ("arm64-a53", "arm64-a76", "arm64-max")
    return recheck(Recheck(bundle_of(case), str(model), on=levels, require_device=True), quiet)


def test_each_level_gives_the_hosts_answers(report: CheckReport) -> None:
    for level in ("arm64-a53", "arm64-a76", "arm64-max"):
        rows = {row.metric: row for row in report.rows if row.step == level}
        assert rows["emulated_run_time"].value > 0
        assert {row.verdict for row in rows.values()} == {"pass", "measured"}, rows
        wanted = "host_cosine_min" if report.task == "embedding" else "host_kl_mean"
        assert rows[wanted].limit is not None


def test_golden_inputs_are_asked_there_too(report: CheckReport) -> None:
    assert [row.value for row in report.rows if row.metric == "golden_failing"] == [0, 0, 0]


def test_the_report_says_what_was_emulated_by_what(report: CheckReport) -> None:
    assert report.proven_on["cpu"].startswith("emulated arm64 cortex-a53, cortex-a76, max (qemu ")
    assert report.proven_on["device"] == "emulated"
    assert report.proven_on["engine"] == "onnxruntime 1.31.1"


def test_an_emulated_processor_is_no_device(report: CheckReport) -> None:
    last = report.rows[-1]
    assert (last.metric, last.verdict, last.detail) == ("proven_on", "unproven", "only on emulated")


def test_a_damaged_bundle_is_never_opened_there(case: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle_of(case), tmp_path / "copy"))
    file = copy / json.loads((copy / "manifest.json").read_text())["engine"]["file"]
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    model = next(case.glob("tiny-*"))
    done = CliRunner().invoke(
        cli, ["check", str(copy), "--source", str(model), "--on", "arm64-a76"], obj={"quiet": True}
    )
    assert "SHA-256" in str(done.exception)


def test_an_unknown_level_is_a_wrong_option() -> None:
    done = CliRunner().invoke(cli, ["check", "bundle", "--on", "arm64-a99"])
    assert done.exit_code == 2
    assert "arm64-a53" in done.output
