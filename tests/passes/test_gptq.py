"""quantize_gptq on small true architectures: what is calibrated, resumed, refused, reported."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgecompile import sources
from edgecompile.errors import BadInputError, UsageError
from edgecompile.model import Model
from edgecompile.passes import LayerReport, PassResult
from edgecompile.passes.quantize_gptq import QuantizeGptq
from edgecompile.passes.quantize_rtn import QuantizeRtn
from edgecompile.structure import roles
from edgecompile.text.parts import Corpus, Document
from tests import tiny

TEXT = tiny.corpus()
FEW: dict[str, Any] = {"bits": 4, "texts": 4, "length": 64}


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def untied(folder: Path) -> Path:
    return tiny.llama(folder, tie_word_embeddings=False)


def classifier(folder: Path) -> Path:
    """A BERT with a classifier of 3 labels behind its pooler."""
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        vocab_size=tiny.word_piece(folder), max_position_embeddings=128, num_labels=3,
        initializer_range=0.1,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tiny.card(folder)
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "llama": tiny.llama, "untied": untied, "bert": tiny.bert, "classifier": classifier,
}  # fmt: skip
OUTSIDE = {
    "untied": ["lm_head.weight"], "classifier": ["bert.pooler.dense.weight", "classifier.weight"],
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("models")
    return {name: load(make(folder / name)) for name, make in MAKERS.items()}


def load(folder: Path | str) -> Model:
    return sources.load(sources.resolve(str(folder)), quiet)


@pytest.fixture(scope="module")
def results(
    models: dict[str, Model], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, PassResult]:
    folder = tmp_path_factory.mktemp("work")
    return {n: QuantizeGptq(**FEW)(m, tiny.work(folder / n, TEXT)) for n, m in models.items()}


def rows(result: PassResult) -> dict[str, LayerReport]:
    return {row.name: row for row in result.layers}


def digests(result: PassResult) -> dict[str, str]:
    return {name: result.model.quantized[name].digest(name) for name in result.model.quantized}


@pytest.mark.parametrize("name", MAKERS)
def test_every_matrix_is_calibrated_and_errs_no_more_than_rounded_to_nearest(
    models: dict[str, Model], results: dict[str, PassResult], name: str
) -> None:
    found = rows(results[name])
    matrices = [tensor for tensor, role in roles(models[name]).items() if role == "linear"]
    assert len(matrices) >= 12
    for tensor in matrices:
        row = found[tensor]
        assert (row.action, row.of) == ("changed", "outputs"), row
        assert row.nearest is not None
        assert 0 < row.error <= row.nearest, row


@pytest.mark.parametrize("name", MAKERS)
def test_every_tensor_has_one_row(
    models: dict[str, Model], results: dict[str, PassResult], name: str
) -> None:
    assert [row.name for row in results[name].layers] == list(models[name].weights)
    changed = {row.name for row in results[name].layers if row.action == "changed"}
    assert changed == set(results[name].model.quantized)


@pytest.mark.parametrize("name", OUTSIDE)
def test_matrices_outside_of_blocks_are_calibrated_too(
    results: dict[str, PassResult], name: str
) -> None:
    for tensor in OUTSIDE[name]:
        assert rows(results[name])[tensor].of == "outputs"


def test_an_embedding_says_that_it_is_rounded_to_nearest(results: dict[str, PassResult]) -> None:
    row = rows(results["llama"])["model.embed_tokens.weight"]
    assert (row.of, "no calibration inputs" in row.detail) == ("weights", True)


@pytest.mark.parametrize("name", ["untied", "bert"])
def test_a_run_that_lacks_its_later_parts_makes_them_again(
    models: dict[str, Model], results: dict[str, PassResult], tmp_path: Path, name: str
) -> None:
    work = tiny.work(tmp_path, TEXT)
    QuantizeGptq(**FEW)(models[name], work)
    parts = sorted(tmp_path.glob("codes-*"))
    for kept in range(len(parts)):
        for part in parts[kept:]:
            part.unlink()
        again = QuantizeGptq(**FEW)(models[name], work)
        assert digests(again) == digests(results[name])
        assert again.layers == results[name].layers


KILLED = """
import os, signal, sys
from pathlib import Path
from edgecompile.passes.quantize_gptq import QuantizeGptq
from edgecompile.passes.quantize_rtn import QuantizeRtn
from tests import tiny
from tests.passes.test_gptq import FEW, TEXT, load
import dataclasses

def progress(what, done, total):
    if len(list(Path(sys.argv[2]).glob("codes-*"))) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

work = dataclasses.replace(tiny.work(Path(sys.argv[2]), TEXT), progress=progress)
QuantizeGptq(**FEW)(load(sys.argv[1]), work)
"""


def test_a_killed_process_is_gone_on_with_to_the_same_codes(
    models: dict[str, Model], results: dict[str, PassResult], tmp_path: Path
) -> None:
    model, root = models["untied"], Path(__file__).parents[2]
    for parts in (1, 3):  # in the second block; between what is outside of blocks
        child = subprocess.run(
            [sys.executable, "-c", KILLED, str(model.folder), str(tmp_path), str(parts)],
            env={**os.environ, "PYTHONPATH": str(root)}, cwd=root, check=False,
        )  # fmt: skip
        assert child.returncode == -signal.SIGKILL
        assert len(list(tmp_path.glob("codes-*"))) == parts
    again = QuantizeGptq(**FEW)(model, tiny.work(tmp_path, TEXT))
    assert digests(again) == digests(results["untied"])
    assert again.layers == results["untied"].layers


@pytest.mark.parametrize("name", ["llama", "bert"])
@pytest.mark.parametrize("cores", [1, 3])
def test_the_codes_do_not_depend_on_the_number_of_cores(
    models: dict[str, Model], results: dict[str, PassResult], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, name: str, cores: int,
) -> None:  # fmt: skip
    monkeypatch.setattr("edgecompile.numerics.parallel.usable_cores", lambda: cores)
    found = QuantizeGptq(**FEW)(models[name], tiny.work(tmp_path, TEXT))
    assert digests(found) == digests(results[name])


def corpus(*texts: str) -> Corpus:
    return Corpus("mine", tuple(map(Document, texts)), (), ())


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_texts_shorter_than_a_window_are_enough(
    models: dict[str, Model], tmp_path: Path, name: str
) -> None:
    found = QuantizeGptq(bits=4)(models[name], tiny.work(tmp_path, corpus("a fox", "dogs")))
    assert all(row.error <= row.nearest for row in found.layers if row.nearest is not None)
    assert any(row.of == "outputs" for row in found.layers)


@pytest.mark.parametrize("name", ["llama", "bert"])
@pytest.mark.parametrize("texts", [(), ("",), (" \n",)])
def test_without_text_it_is_refused(
    models: dict[str, Model], tmp_path: Path, name: str, texts: tuple[str, ...]
) -> None:
    with pytest.raises(BadInputError, match="with less than two tokens"):
        QuantizeGptq(bits=4)(models[name], tiny.work(tmp_path, corpus(*texts)))


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_any_text_calibrates(models: dict[str, Model], tmp_path: Path, name: str) -> None:
    texts = ("\0" * 50, "ключ \u202e 鍵 🗝\ufe0f " * 20, "\ufffd\x07", "e\u0301" * 300, "x" * 9000)
    hard = corpus(*texts)
    found = QuantizeGptq(bits=4, texts=5, length=32)(models[name], tiny.work(tmp_path, hard))
    assert all(np.isfinite(row.error) for row in found.layers)


def test_nan_weights_are_refused_by_name(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tiny.llama(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][3, 4] = np.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInputError, match=name) as caught:
        QuantizeGptq(**FEW)(load(folder), tiny.work(tmp_path / "w", TEXT))
    assert caught.value.exit_code == 5


def test_columns_that_do_not_divide_into_groups_are_skipped_with_the_reason(
    tmp_path: Path,
) -> None:
    model = load(tiny.llama(tmp_path / "m", intermediate_size=136))
    found = rows(QuantizeGptq(**FEW)(model, tiny.work(tmp_path / "w", TEXT)))
    row = found["model.layers.0.mlp.down_proj.weight"]
    assert (row.action, row.detail) == ("skipped", "136 columns do not divide into groups of 32")
    assert found["model.layers.0.mlp.up_proj.weight"].of == "outputs"


def test_one_block_is_calibrated_where_one_is_asked_for(
    models: dict[str, Model], tmp_path: Path
) -> None:
    result = QuantizeGptq(**FEW, blocks=1)(models["untied"], tiny.work(tmp_path, TEXT))
    calibrated = {row.name.split(".")[2] for row in result.layers if row.of == "outputs"}
    assert calibrated == {"0"}
    row = rows(result)["model.layers.1.mlp.up_proj.weight"]
    assert (row.action, "no calibration inputs" in row.detail) == ("changed", True)
    assert len(result.model.quantized) == 16


@pytest.mark.parametrize(
    "options",
    [
        {"texts": 0}, {"texts": -3}, {"length": 1}, {"damping": -0.1}, {"damping": float("nan")},
        {"damping": 5.0}, {"sweeps": -1}, {"blocks": -2}, {"group_size": -5},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused_at_once(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(UsageError, match=rf"\[quantize_gptq\] {name}"):
        QuantizeGptq(**options)


class Between(nn.Module):
    """A list of alike layers with something between them that a walk must not leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
        self.head = nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x)


class Twice(nn.Module):
    """No list at all, and one layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        inner = self.two(torch.relu(self.one(x)))
        return {"y": self.two(torch.relu(self.one(inner))), "inner": inner}


class Narrower(nn.Module):
    """Alike layers whose widths differ."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 96), nn.Linear(96, 32)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def made(kind: type[nn.Module]) -> tuple[nn.Module, dict[str, np.ndarray]]:
    torch.manual_seed(0)
    values = np.random.default_rng(0).standard_normal((50, 64)).astype("f4")
    return kind(), {"x": values}


def between() -> Any:
    return made(Between)


def twice() -> Any:
    return made(Twice)


def narrower() -> Any:
    return made(Narrower)


def module(function: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return load(f"{Path(__file__).stem}:{function.__name__}")


@pytest.mark.parametrize("function", [between, twice, narrower], ids=lambda f: str(f.__name__))
def test_a_module_is_calibrated_on_what_its_layers_really_see(
    function: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = module(function, monkeypatch)
    found = QuantizeGptq(bits=4)(model, tiny.work(tmp_path, TEXT))
    calibrated = [row for row in found.layers if row.of == "outputs"]
    assert len(calibrated) == sum(role == "linear" for role in roles(model).values())
    assert all(row.nearest is not None and row.error <= row.nearest for row in calibrated)


def test_what_stands_between_layers_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a relu half of the inputs are zero: the Hessian of the second layer shows it."""
    from edgecompile.calibration.batches import text_batches
    from edgecompile.calibration.walk import Walk

    model = module(between, monkeypatch)
    walk = Walk(model, text_batches(model, (), 1, 2), tmp_path)
    walk.hold(0)
    second = next(g[0] for g in walk.layers(0) if g[0].source == "layers.1.weight")
    (inputs,) = walk.inputs(0, second, walk.given)
    assert walk.whole
    assert float(inputs.min()) == 0
    walk.close()


def decoder(folder: Path, kind: str, **settings: Any) -> Path:
    """A decoder of any kind that transformers knows, of two blocks."""
    import transformers

    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    size = tiny.byte_bpe(folder)
    config = transformers.CONFIG_MAPPING[kind](**special | settings | {"vocab_size": size})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny.card(folder)
    return folder


WIDE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
OTHERS: dict[str, dict[str, Any]] = {
    "opt": WIDE | {"ffn_dim": 128, "word_embed_proj_dim": 64, "max_position_embeddings": 128},
    "falcon": WIDE, "phi": WIDE | {"intermediate_size": 128},
    "gptj": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "rotary_dim": 8},
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_layers_of_an_architecture_that_is_named_nowhere_are_found(
    kind: str, tmp_path: Path
) -> None:
    model = load(decoder(tmp_path / "m", kind, **OTHERS[kind]))
    result = QuantizeGptq(**FEW)(model, tiny.work(tmp_path / "w", TEXT))
    matrices = {name for name, role in roles(model).items() if role == "linear"}
    assert len(matrices) >= 8
    assert {row.name for row in result.layers if row.of == "outputs"} == matrices


def test_matrices_that_are_no_linear_layers_are_named_as_skipped(tmp_path: Path) -> None:
    settings = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
    model = load(decoder(tmp_path / "m", "openai-gpt", **settings))
    found = rows(QuantizeGptq(**FEW)(model, tiny.work(tmp_path / "w", TEXT)))
    row = found["transformer.h.0.attn.c_attn.weight"]
    assert (row.action, row.detail) == (
        "skipped", "not a linear layer's or convolution's weight, nor the vocabulary's table",
    )  # fmt: skip


def test_the_report_survives_as_json(results: dict[str, PassResult]) -> None:
    for row in results["llama"].layers:
        assert LayerReport(**json.loads(json.dumps(dataclasses.asdict(row)))) == row


def test_a_pattern_that_fits_no_tensor_is_reported(tmp_path: Path) -> None:
    model = sources.load(sources.resolve(str(tiny.llama(tmp_path / "m"))), lambda *_: None)
    given = tiny.work(tmp_path / "codes")
    result = QuantizeRtn(bits=8, skip=("*.w_proj.weight",))(model, given)
    assert [row.detail for row in result.layers if row.name == "*.w_proj.weight"] == [
        "this pattern fits no tensor"
    ]
