from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from edgecompile import doctor
from edgecompile.doctor import Library, examine


@pytest.fixture(scope="module")
def report() -> doctor.Report:
    return examine()


def test_every_library_of_the_light_half_is_listed_with_its_version(report: doctor.Report) -> None:
    light = {library.name: library.installed for library in report.libraries if not library.extra}
    assert light["numpy"] == importlib.metadata.version("numpy")
    assert {"click", "jinja2", "onnxruntime", "rich", "tokenizers"} <= set(light)


def test_the_tested_versions_are_the_ones_that_make_installs(report: doctor.Report) -> None:
    assert all(library.tested for library in report.libraries)
    wrong = [library for library in report.libraries if library.state == "untested"]
    assert not wrong


def test_a_local_version_such_as_cpu_counts_as_the_tested_one() -> None:
    assert Library("torch", "compile", ">=2.6", "2.13.0+cpu", "2.13.0").state == "ok"
    assert Library("torch", "compile", ">=2.6", "2.12.0", "2.13.0").state == "untested"
    assert Library("torch", "compile", ">=2.6", "", "2.13.0").state == "missing"


def test_cpu_and_gguf_can_be_built_and_run_where_make_installed(report: doctor.Report) -> None:
    for ability in report.targets:
        if ability.target in ("cpu", "gguf"):
            assert not ability.missing_to_build, ability
            assert not ability.missing_to_run, ability
    engines = {ability.target: ability.engine for ability in report.targets}
    assert engines["cpu"] == "onnxruntime"
    assert engines["gguf"] == "llama_cpp"


def test_a_missing_engine_comes_with_the_pip_line_that_adds_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    util = doctor.importlib.util
    there = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda n: None if n == "llama_cpp" else there(n))
    ability = doctor.ability("gguf")
    assert ability.missing_to_run == ("llama_cpp",)
    assert ability.way_out == "pip install 'edgecompile[gguf]'"


def test_a_broken_target_file_is_reported_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "odd.toml").write_text("backendd = 1")
    monkeypatch.chdir(tmp_path)
    found = {ability.target: ability for ability in examine().targets}
    assert "backendd" in found["odd"].problem
    assert not found["cpu"].problem


def test_the_report_is_json(report: doctor.Report) -> None:
    read = json.loads(json.dumps(doctor.to_json(report)))
    assert read["host"]["cores"] >= 1
    assert {"name", "extra", "wanted", "installed", "tested", "state"} == set(read["libraries"][0])


def test_the_tables_name_each_target_and_library(report: doctor.Report) -> None:
    console = Console(file=StringIO(), width=160)
    doctor.render(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for word in ("cpu", "gguf", "onnxruntime", "torch", report.host.level, "MiB"):
        assert word in text


def test_examining_imports_neither_framework_nor_engine() -> None:
    code = (
        "import sys; from edgecompile import doctor; doctor.examine();"
        "print(*({'torch', 'transformers', 'onnxruntime', 'llama_cpp', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
