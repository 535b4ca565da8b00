from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from edgecompile import imports, shelf

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("edgecompile", "targets", "models")
FRAMEWORKS = {"torch", "transformers", "onnx", "peft", "safetensors", "onnxruntime_genai"}


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", *arguments], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources in which stray files lie about."""
    root = tmp_path_factory.mktemp("sources")
    for name in SHIPPED:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "constraints.txt", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, root / name)
    (root / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "report.schema.json", root / "docs")
    (root / "targets" / "cpu.toml.orig").touch()
    (root / "models" / "all-minilm-l6-v2" / "model.safetensors").touch()
    (root / "edgecompile" / "notes.txt").touch()
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(root))
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel installed by itself, away from the checkout."""
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--target", str(folder), str(wheel))
    return folder


def python(installed: Path, code: str) -> str:
    """Output of `code` where only the wheel and this environment's libraries can be imported.

    -S leaves out the .pth file by which an editable install puts the checkout on the path.
    """
    paths = [str(installed), sysconfig.get_path("purelib")]
    head = f"import sys; sys.path[:0] = {paths!r}; "
    command = [sys.executable, "-I", "-S", "-c", head + code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=installed)
    return done.stdout.strip()


def test_the_wheel_has_every_module_and_the_shelf_and_nothing_else(wheel: Path) -> None:
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {"edgecompile/py.typed", "edgecompile/_shelf/constraints.txt"}
    expected.add("edgecompile/_shelf/report.schema.json")
    expected |= {str(f.relative_to(ROOT)) for f in (ROOT / "edgecompile").rglob("*.py")}
    expected |= {f"edgecompile/_shelf/targets/{f.name}" for f in ROOT.glob("targets/*.toml")}
    for pattern in ("shims/cpp/*.cpp", "shims/cpp/*.h", "report/templates/*.*"):
        expected |= {str(f.relative_to(ROOT)) for f in (ROOT / "edgecompile").glob(pattern)}
    for pattern in ("models/*/*.toml", "models/*/*.json", "models/*/*.md", "models/*/*.py"):
        expected |= {f"edgecompile/_shelf/{f.relative_to(ROOT)}" for f in ROOT.glob(pattern)}
    assert found == expected


def test_the_wheel_says_its_licence_and_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = {Path(name).name: name for name in archive.namelist() if ".dist-info/" in name}
    assert "edgecompile = edgecompile.cli:main" in archive.read(names["entry_points.txt"]).decode()
    assert "Apache License" in archive.read(names["LICENSE"]).decode()


def test_the_light_half_asks_for_no_framework(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    metadata = next(name for name in archive.namelist() if name.endswith("/METADATA"))
    lines = archive.read(metadata).decode().splitlines()
    wanted = [line.removeprefix("Requires-Dist: ") for line in lines if "Requires-Dist" in line]
    names = {line.split(">")[0] for line in wanted if ";" not in line}
    assert names == {"click", "jinja2", "numpy", "onnxruntime", "rich", "tokenizers"}


def test_an_installed_wheel_finds_its_own_shelf(installed: Path) -> None:
    code = "from edgecompile import shelf; print(shelf.targets_folder(), shelf.models_folder())"
    targets, models = python(installed, code).split()
    assert Path(targets) == installed / "edgecompile" / "_shelf" / "targets"
    assert (Path(models) / "all-minilm-l6-v2" / "recipe.toml").is_file()
    names = python(installed, "from edgecompile import target; print(*target.names())").split()
    assert names == sorted(file.stem for file in ROOT.glob("targets/*.toml"))


def test_an_installed_wheel_has_the_schema_of_its_reports(installed: Path) -> None:
    code = "from edgecompile import shelf; print(shelf.report_schema().read_text()[0])"
    assert python(installed, code) == "{"


def test_an_installed_wheel_draws_a_page(installed: Path) -> None:
    code = (
        "from edgecompile.report import CheckReport, page; "
        "report = CheckReport('a', '', '', '', '', '', '', '', (), {}, {}, {}); "
        "print(len(page.render(page.Found(report))) > 1000)"
    )
    assert python(installed, code) == "True"


def test_an_installed_wheel_knows_the_tested_versions(installed: Path) -> None:
    code = "from edgecompile import shelf; print(shelf.tested_versions()['torch'])"
    assert python(installed, code) == shelf.tested_versions()["torch"]


@pytest.mark.parametrize("name", ["targets", "models", "tests"])
def test_no_folder_of_the_repository_becomes_importable(installed: Path, name: str) -> None:
    code = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
    assert python(installed, code) == "None"


def test_a_checkout_finds_its_own_shelf() -> None:
    assert shelf.targets_folder() == ROOT / "targets"
    assert shelf.models_folder() == ROOT / "models"


def test_what_make_installs_is_what_constraints_pin() -> None:
    pins = shelf.tested_versions()
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        if name in pins and name != "setuptools":  # a new venv brings its own
            assert distribution.version.split("+")[0] == pins[name], name


def modules(folder: str) -> list[str]:
    files = (ROOT / folder).rglob("*.py")
    names = [file.relative_to(ROOT).with_suffix("").parts for file in files]
    return sorted(".".join(name[:-1] if name[-1] == "__init__" else name) for name in names)


def test_every_library_that_is_imported_is_declared() -> None:
    declared = {"llama_cpp", "PIL", "yaml"}  # of llama-cpp-python, pillow and pyyaml
    for line in importlib.metadata.requires("edgecompile") or []:
        name = re.split(r"[^\w.-]", line)[0]
        declared.add(re.sub(r"[-_.]+", "_", name).lower())
    wanted = {top for module in modules("edgecompile") for top in imports.outside(module)}
    assert wanted <= declared


def test_the_runtime_knows_numpy_tokenizers_jinja2_pillow_and_engines_only() -> None:
    wanted = {top for name in modules("edgecompile/runtime") for top in imports.outside(name)}
    engines = {"executorch", "llama_cpp", "onnxruntime", "openvino"}
    tensors = {"torch"}  # ExecuTorch's bindings pass them; it loads what AOTInductor compiled
    assert wanted <= {"numpy", "tokenizers", "jinja2", "PIL", *engines, *tensors}


def test_the_command_line_starts_without_a_framework() -> None:
    code = f"import edgecompile.cli, sys; print(*({FRAMEWORKS!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
