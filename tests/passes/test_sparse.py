"""Passes that put zeros into weights: the checkpoint, the report, what quantizers make of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgecompile import codes, sources
from edgecompile.errors import UsageError
from edgecompile.model import Model
from edgecompile.passes.prune_sparsegpt import PruneSparsegpt
from edgecompile.passes.prune_wanda import PruneWanda
from edgecompile.passes.quantize_awq import QuantizeAwq
from edgecompile.passes.quantize_gptq import QuantizeGptq
from edgecompile.passes.quantize_rtn import QuantizeRtn
from edgecompile.passes.quantize_smooth import QuantizeSmooth
from edgecompile.passes.sparsity import SparseOptions
from tests import tiny
from tests.architectures import cells

KINDS = {kind.model_type: kind for kind in cells.KINDS}
PASSES: tuple[type[SparseOptions], ...] = (PruneWanda, PruneSparsegpt)
FEW: dict[str, Any] = {"texts": 8, "length": 32}


def load(folder: Path, task: str = "") -> Model:
    return sources.load(sources.resolve(str(folder), task=task), lambda *_: None)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(tiny.llama(tmp_path_factory.mktemp("llama") / "model"))


@pytest.fixture(scope="module")
def pruned(llama: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("pruned")
    chosen = PruneSparsegpt(pattern="2:4", **FEW)
    return chosen(llama, tiny.work(folder / "work", tiny.corpus())).model


def in_blocks(model: Model) -> list[str]:
    return [n for n, i in model.weights.infos.items() if ".layers." in n and len(i.shape) == 2]


@pytest.mark.parametrize("method", PASSES)
@pytest.mark.parametrize("options", [{"sparsity": 0.5}, {"pattern": "2:4"}])
@pytest.mark.parametrize("architecture", ["llama", "phi3", "bert", "distilbert"])
def test_half_of_every_matrix_in_a_block_is_zeros_and_transformers_loads_the_folder(
    method: type[SparseOptions], options: dict[str, Any], architecture: str, tmp_path: Path
) -> None:
    described = KINDS[architecture]
    task = "classification" if "classification" in described.tasks else described.tasks[0]
    model = cells.make(described, task, tmp_path / "model")
    result = method(**options, **FEW)(model, tiny.work(tmp_path / "work", tiny.corpus()))
    loaded = cells.AUTO[task].from_pretrained(result.model.folder, dtype=torch.float32)
    matrices = [m.weight for p, m in loaded.named_modules()
                if isinstance(m, torch.nn.Linear) and ".layer" in p]  # fmt: skip
    assert len(matrices) >= 8
    assert {float((w == 0).float().mean()) for w in matrices} == {0.5}


@pytest.mark.parametrize("method", PASSES)
def test_what_is_in_no_block_stays_as_it_was(
    method: type[SparseOptions], llama: Model, tmp_path: Path
) -> None:
    work = tiny.work(tmp_path / "work", tiny.corpus())
    after = method(sparsity=0.5, **FEW)(llama, work).model
    others = [name for name in llama.weights if name not in in_blocks(llama)]
    assert all(torch.equal(after.weights[n], llama.weights[n]) for n in others)


def test_a_report_says_the_zeros_and_the_error_of_each_matrix(
    llama: Model, tmp_path: Path
) -> None:
    chosen = PruneWanda(pattern="2:4", skip=("*.k_proj.weight",), **FEW)
    rows = {r.name: r for r in chosen(llama, tiny.work(tmp_path / "w", tiny.corpus())).layers}
    assert rows.keys() == set(llama.weights)
    done = rows["model.layers.1.mlp.down_proj.weight"]
    assert done.detail.startswith("50.0% zeros (2:4); by magnitude 0.")
    assert (done.of, 0 < done.error < float(done.detail.split()[-1])) == ("outputs", True)
    assert rows["model.layers.0.self_attn.k_proj.weight"].detail == "named in skip"


def test_a_matrix_that_has_no_whole_groups_is_skipped_with_the_reason(
    llama: Model, tmp_path: Path
) -> None:
    chosen = PruneWanda(pattern="2:3", **FEW)
    with pytest.raises(UsageError, match="no tensor"):
        chosen(llama, tiny.work(tmp_path / "work", tiny.corpus()))


@pytest.mark.parametrize("method", PASSES)
def test_the_same_text_gives_the_same_bytes(
    method: type[SparseOptions], llama: Model, tmp_path: Path
) -> None:
    def digest(folder: Path) -> str:
        made = method(sparsity=0.5, **FEW)(llama, tiny.work(folder, tiny.corpus())).model
        return hashlib.sha256((made.folder / "model.safetensors").read_bytes()).hexdigest()

    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_a_killed_run_goes_on_and_writes_the_same(llama: Model, tmp_path: Path) -> None:
    chosen = PruneSparsegpt(sparsity=0.5, **FEW)
    whole = chosen(llama, tiny.work(tmp_path / "whole", tiny.corpus())).model

    class KilledError(Exception):
        pass

    def killer(_what: str, _done: int, _total: int) -> None:
        raise KilledError

    work = tiny.work(tmp_path / "killed", tiny.corpus())
    with pytest.raises(KilledError):
        chosen(llama, type(work)(killer, work.folder, work.corpus, work.size, work.stage))
    assert codes.parts(work.folder) == [0]
    again = chosen(llama, work).model
    assert again.source.digest == whole.source.digest


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    "quantizer",
    [
        lambda bits: QuantizeRtn(bits=bits),
        lambda bits: QuantizeGptq(bits=bits, **FEW),
        lambda bits: QuantizeGptq(bits=bits, sweeps=1, **FEW),
        lambda bits: QuantizeAwq(bits=bits, **FEW),
        lambda bits: QuantizeAwq(bits=bits, rounding="nearest", **FEW),
        lambda bits: QuantizeSmooth(bits=bits, **FEW),
        lambda bits: QuantizeSmooth(bits=bits, rounding="gptq", **FEW),
    ],
    ids=["rtn", "gptq", "gptq-sweeps", "awq", "awq-nearest", "smooth", "smooth-gptq"],
)
def test_zeros_are_code_0_whatever_quantizes_them(
    quantizer: Callable[[int], Any], bits: int, pruned: Model, tmp_path: Path
) -> None:
    made = quantizer(bits)(pruned, tiny.work(tmp_path / "work", tiny.corpus())).model
    for name in in_blocks(pruned):
        gone = (pruned.weights[name] == 0).numpy()
        assert gone.mean() == 0.5
        assert (made.quantized[name].codes[gone] == 0).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "neither sparsity nor pattern"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "both"),
        ({"sparsity": 0.1}, "0.1"),
        ({"sparsity": 1.0}, "1.0"),
        ({"sparsity": float("nan")}, "nan"),
        ({"pattern": "4:2"}, "is not N:M"),
        ({"pattern": "7:8"}, "0.125"),
        ({"sparsity": 0.5, "texts": 0}, "0"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        PruneWanda(**options)


def test_damping_and_block_have_a_range() -> None:
    with pytest.raises(UsageError, match="damping"):
        PruneSparsegpt(sparsity=0.5, damping=2.0)
    with pytest.raises(UsageError, match="block"):
        PruneSparsegpt(sparsity=0.5, block=0)
