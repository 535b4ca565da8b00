"""AOTInductor's packages hold the chosen codes and answer as torch does; compiled for a CPU.

A compiler takes 15 s and more of a processor for the smallest model, so what compiles is slow.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgecompile import bundle, sources, target
from edgecompile.backends import aotinductor
from edgecompile.backends.aotinductor import Aotinductor
from edgecompile.backends.aotinductor_graph.coded import Coded, dequantized, encoded, find
from edgecompile.checks import sealed
from edgecompile.errors import BadInputError, UnsupportedError
from edgecompile.graphs import graph
from edgecompile.model import Model
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import QuantizedTensor, Scheme
from edgecompile.plan import Request, plan
from edgecompile.reference import Reference
from edgecompile.runtime import cpu, load, tensor_file
from tests import tiny
from tests.backends.codes import rounded

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="no g++ here")
CPU = Aotinductor(device="cpu")
IDS = [[2, 10, 11, 12, 13, 3], [3], [2, *range(5, 40), 3]]
MODULE = """import torch
from torch import nn
def build():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
                        nn.Linear(288, 32), nn.ReLU(), nn.Linear(32, 5))
    return net.eval(), (torch.rand(2, 3, 8, 8).numpy(),)
"""


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def loaded(source: str, task: str = "") -> Model:
    return sources.load(sources.resolve(source, task=task), quiet)


@dataclass(frozen=True)
class Made:
    """A model and its bundle."""

    model: Model
    bundle: Path

    @property
    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.bundle / "manifest.json").read_text())
        return found


def make(source: str, folder: Path, bits: int) -> Made:
    folder.mkdir(parents=True, exist_ok=True)
    model = rounded(loaded(source), folder / "codes", bits)
    (folder / "engine").mkdir()
    export = CPU.export(model, folder / "engine", quiet)
    device = target.find("gpu-pt2", ["options.device=cpu"])
    contents = bundle.Contents(model, device, "", export, ())
    (folder / "bundle").mkdir()
    bundle.assemble(contents, folder / "engine", folder / "bundle")
    return Made(model, folder / "bundle")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("bert")
    return make(str(tiny.bert(folder / "m")), folder / "made", 4)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("module")
    (folder / "net.py").write_text(MODULE)
    return make(f"{folder / 'net.py'}:build", folder / "made", 8)


@pytest.fixture(params=["bert", "module"])
def made(request: pytest.FixtureRequest) -> Made:
    found: Made = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def copy(bert: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert.bundle, tmp_path / "copy"))


def changed(folder: Path, **options: object) -> Path:
    """The bundle with other words in its manifest."""
    file = folder / "manifest.json"
    data = json.loads(file.read_text())
    data["engine"]["tested"] = options.pop("tested", data["engine"]["tested"])
    data["engine"]["options"] |= options
    file.write_text(json.dumps(data))
    return folder


# What needs no compiler.


@pytest.mark.skipif(aotinductor._has_cuda(), reason="there is a CUDA device here")
@needs_compiler
def test_without_a_cuda_device_the_shelfs_target_is_refused_by_plan(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"no CUDA device is here.*To go on") as caught:
        plan(Request(str(tiny.bert(tmp_path / "m")), ("gpu-pt2",)))
    assert caught.value.exit_code == 3


def test_without_a_compiler_the_refusal_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get install g++" in CPU.refusal(loaded(str(tiny.bert(tmp_path / "m"))))


def test_a_decoder_is_refused_by_plan(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="text-generation") as caught:
        plan(Request(str(tiny.llama(tmp_path / "m")), ("gpu-pt2",)))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("scheme", [Scheme(8, 0), Scheme(8, 32), Scheme(4, 0), Scheme(4, 32)])
def test_the_graph_dequantizes_as_the_grid_says(scheme: Scheme) -> None:
    weight = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    tensor = quantize(weight, scheme, False)
    parts = {name: torch.from_numpy(value) for name, value in encoded(tensor).items()}
    np.testing.assert_array_equal(dequantized(parts).numpy(), tensor.dequantize())


def test_factors_of_inputs_are_multiplied_in() -> None:
    random = np.random.default_rng(0)
    plain = quantize(random.standard_normal((6, 64)).astype(np.float32), Scheme(8, 0), False)
    factors = random.uniform(0.5, 2, 64).astype(np.float32)
    tensor = QuantizedTensor(plain.scheme, plain.codes, plain.scales, factors)
    parts = {name: torch.from_numpy(value) for name, value in encoded(tensor).items()}
    np.testing.assert_array_equal(dequantized(parts).numpy(), tensor.dequantize())


def test_the_module_that_is_exported_computes_with_the_codes(tmp_path: Path) -> None:
    model = rounded(loaded(str(tiny.bert(tmp_path / "m"))), tmp_path / "codes", 4)
    reference = Reference(model, "sdpa")
    one = graph(reference)
    coded = Coded(one.module, model, find(reference, one.module), tuple(one.given))
    with torch.no_grad():
        found = coded(*one.given.values())[0]
        with reference.quantized(model.quantized, model.replaced):
            expected = one.module(**one.given)
    torch.testing.assert_close(found, expected)


def test_a_processor_without_an_instruction_of_the_level_is_told_by_name(tmp_path: Path) -> None:
    flags = set(cpu.LEVELS["x86-64-v3"]) - {"avx2"}
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {' '.join(flags)}\n")
    assert cpu.missing_for("x86-64-v3", tmp_path / "cpuinfo") == ["avx2"]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff" * 64, (2).to_bytes(8, "little") + b"[]",
        (70).to_bytes(8, "little")
        + b'{"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]}}'.ljust(70) + b"\0" * 31,
    ],
)  # fmt: skip
def test_a_damaged_file_of_tensors_is_bad_input(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(BadInputError, match="a safetensors file"):
        tensor_file.read(tmp_path / "t")


# What compiles.


@pytest.mark.slow
@needs_compiler
def test_step_0_finds_the_codes_and_floats_that_were_chosen(made: Made) -> None:
    decoded = CPU.decode(made.bundle / "model", made.manifest)
    rows = list(sealed.rows(decoded, made.manifest, made.model, made.model.quantized))
    assert [row.metric for row in rows if row.verdict == "fail"] == []
    compared = {row.metric: row.samples for row in rows}
    assert compared["codes_differing"] == len(made.model.quantized) > 0
    assert compared["tensors_missing"] == len(made.model.weights)


@pytest.mark.slow
@needs_compiler
def test_a_changed_code_and_a_changed_scale_fail_step_0(bert: Made, copy: Path) -> None:
    file = copy / "model" / "weights.safetensors"
    arrays = tensor_file.read(file)
    name = next(name for name in sorted(arrays) if name.endswith(".codes"))
    for suffix in (".codes", ".scales"):
        whole = bytearray(file.read_bytes())
        size = int.from_bytes(whole[:8], "little")
        entry = json.loads(whole[8 : 8 + size])[name.replace(".codes", suffix)]
        whole[8 + size + entry["data_offsets"][0]] ^= 1
        (copy / "model" / "weights.safetensors").write_bytes(whole)
        decoded = CPU.decode(copy / "model", bert.manifest)
        rows = sealed.rows(decoded, bert.manifest, bert.model, bert.model.quantized)
        failed = [row.metric for row in rows if row.verdict == "fail"]
        assert failed[:2] == ["codes_differing", "weights_digest_differing"]
        shutil.copy(bert.bundle / "model" / "weights.safetensors", file)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("ids", [IDS[:1], IDS[1:2], IDS])
def test_texts_of_any_number_and_length_are_answered_as_torch_does(
    bert: Made, ids: list[list[int]]
) -> None:
    with load(bert.bundle, threads=2) as session:
        found = session._need().encode(ids)
    reference = Reference(bert.model)
    with reference.quantized(bert.model.quantized, bert.model.replaced):
        np.testing.assert_allclose(found, reference.embed(ids), atol=1e-5)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_module_with_kernels_in_codes_answers_as_torch_does(module: Made, count: int) -> None:
    pixels = np.random.default_rng(0).random((count, 3, 8, 8), np.float32)
    with load(module.bundle, threads=2) as session:
        found = session.run(input=pixels)["output_0"]
    reference = Reference(module.model)
    with reference.quantized(module.model.quantized, module.model.replaced):
        np.testing.assert_allclose(found, reference.run(input=pixels)["output_0"], atol=1e-5)


@pytest.mark.slow
@needs_compiler
def test_the_same_model_gives_the_same_bytes_in_another_folder(bert: Made, tmp_path: Path) -> None:
    CPU.export(bert.model, tmp_path, quiet)
    for name in ("model.pt2", "weights.safetensors"):
        assert (tmp_path / name).read_bytes() == (bert.bundle / "model" / name).read_bytes()


@pytest.mark.slow
@needs_compiler
def test_the_package_holds_no_path_of_the_building_machine(bert: Made) -> None:
    with zipfile.ZipFile(bert.bundle / "model" / "model.pt2") as whole:
        data = b"".join(whole.read(name) for name in whole.namelist())
    assert str(Path(torch.__file__).parent).encode() not in data
    assert b"/tmp/" not in data


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", ["model.pt2", "weights.safetensors"])
def test_a_damaged_file_is_refused_by_its_hash_before_it_is_loaded(copy: Path, name: str) -> None:
    file = copy / "model" / name
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 255
    file.write_bytes(whole)
    with pytest.raises(BadInputError, match=name.replace(".", r"\.")):
        load(copy)


@pytest.mark.slow
@needs_compiler
def test_a_cut_package_is_bad_input_even_unverified(copy: Path) -> None:
    file = copy / "model" / "model.pt2"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BadInputError, match=r"model\.pt2"):
        load(copy, verify="never")


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"tested": "2.5.1"}, r"2\.5\.1, whose interface the code was compiled for"),
        ({"platform": "linux-arm64"}, "this machine: .*expected linux-arm64"),
    ],
)
def test_another_torch_or_machine_is_refused(
    copy: Path, stated: dict[str, Any], said: str
) -> None:
    with pytest.raises(UnsupportedError, match=said) as caught:
        load(changed(copy, **stated))
    assert caught.value.exit_code == 3


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_package_for_cuda_is_refused_where_there_is_none(copy: Path) -> None:
    with pytest.raises(UnsupportedError, match="no CUDA device"):
        load(changed(copy, device="cuda", compute_capability="8.7"))
