"""The .ort file that reduced builds of ONNX Runtime open: the same codes, found again in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgecompile.backends.onnx_graph import ort_format
from edgecompile.build import BuildResult, build
from edgecompile.errors import BadInputError
from edgecompile.plan import Request, plan
from edgecompile.runtime.manifest import read_manifest
from edgecompile.verify import compare
from tests import tiny


@pytest.fixture(scope="module", params=["llama", "bert"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same model as .ort and as .onnx."""
    folder = tmp_path_factory.mktemp("ort")
    model = getattr(tiny, request.param)(folder / "model")
    return [
        built(model, folder / form, f"target.options.format={form}").bundle
        for form in ("ort", "onnx")
    ]


def built(model: Path, out: Path, setting: str) -> BuildResult:
    request = Request(str(model), ("cpu",), out, settings=(setting, "quantize.method=rtn"))
    return next(build(plan(request), lambda *_: None))


def test_the_check_passes_on_the_file_that_ships(pair: list[Path]) -> None:
    assert (pair[0].name, read_manifest(pair[0]).engine.file) == ("model-cpu", "model/model.ort")


def test_it_holds_the_codes_of_the_onnx_file(pair: list[Path]) -> None:
    assert compare(*pair).differences == ()


def test_the_onnx_file_does_not_ship_beside_it(pair: list[Path]) -> None:
    names = sorted(path.name for path in (pair[0] / "model").iterdir())
    assert names == ["model.ort", ort_format.OPERATORS]


def test_the_operators_of_a_reduced_build_are_listed(pair: list[Path]) -> None:
    text = (pair[0] / "model" / ort_format.OPERATORS).read_text()
    line = next(line for line in text.splitlines() if line.startswith("com.microsoft;1;"))
    assert {"MatMulNBits", "GatherBlockQuantized"} <= set(line.split(";")[2].split(","))


def test_two_conversions_give_the_same_bytes(pair: list[Path], tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for file in (pair[1] / "model").iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        ort_format.convert(tmp_path / name)
        files.append((tmp_path / name / ort_format.FILE).read_bytes())
    assert files[0] == files[1]


def test_a_changed_code_is_seen(pair: list[Path], tmp_path: Path) -> None:
    file = tmp_path / ort_format.FILE
    data = bytearray((pair[0] / "model" / ort_format.FILE).read_bytes())
    codes = next(t for t in ort_format.read(pair[0] / "model" / ort_format.FILE).initializer
                 if t.name.endswith(".codes"))  # fmt: skip
    at = bytes(data).index(codes.raw_data)
    data[at] ^= 1
    file.write_bytes(data)
    again = next(t for t in ort_format.read(file).initializer if t.name == codes.name)
    before, after = (np.frombuffer(t.raw_data, np.uint8) for t in (codes, again))
    assert int((before != after).sum()) == 1


@pytest.mark.parametrize("data", [b"", b"1234ORTM", b"not a flatbuffer at all"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.ort").write_bytes(data)
    with pytest.raises(BadInputError, match=r"x\.ort"):
        ort_format.read(tmp_path / "x.ort")
