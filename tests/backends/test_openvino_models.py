"""What OpenVINO computes is what torch does: decoders, encoders, classifiers, modules."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
import transformers
from numpy.typing import NDArray

from edgecompile import sources
from edgecompile.backends.openvino import Openvino
from edgecompile.backends.openvino_graph import float_encoder, storage
from edgecompile.backends.openvino_graph.rewrite import rewrite
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.reference import Reference
from edgecompile.sources.huggingface import describe
from tests import tiny
from tests.backends.codes import rounded
from tests.backends.test_onnx_decoders import CONFIGS, PROMPT, Case, answer_on_codes, make
from tests.backends.test_onnx_decoders import rounded as codes_for

EXACT = Openvino(activations="exact", kv_cache="f32")
SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "KV_CACHE_PRECISION": "f32", "INFERENCE_NUM_THREADS": 1,
}  # fmt: skip


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def export(model: Model, folder: Path) -> ov.CompiledModel:
    folder.mkdir(parents=True, exist_ok=True)
    EXACT.export(model, folder, quiet)
    return ov.Core().compile_model(str(folder / storage.GRAPH), "CPU", SETTINGS)


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    kind, changes = CONFIGS[request.param]
    return make(tmp_path_factory.mktemp("source"), kind, changes)


def logits(compiled: ov.CompiledModel, rows: list[list[int]], step: int) -> NDArray[np.float32]:
    """Logits [texts, ids, vocabulary], fed `step` at a time; id -1 is padding before a text."""
    request, found = compiled.create_infer_request(), []
    ids = np.array(rows)
    real = (ids >= 0).astype(np.int64)
    positions = np.maximum(real.cumsum(axis=1) - 1, 0)
    for start in range(0, ids.shape[1], step):
        end = min(start + step, ids.shape[1])
        outputs = request.infer({
            "input_ids": np.maximum(ids[:, start:end], 0), "attention_mask": real[:, :end],
            "position_ids": positions[:, start:end], "last_tokens": np.array([end - start]),
            "beam_idx": np.arange(len(ids), dtype=np.int32),
        })  # fmt: skip
        found.append(outputs["logits"].copy())
    return np.concatenate(found, axis=1)


def test_float_logits_are_those_of_transformers(case: Case, tmp_path: Path) -> None:
    compiled = export(case.model, tmp_path)
    for step in (len(PROMPT), 7, 1):
        assert np.abs(logits(compiled, [PROMPT], step)[0] - case.expected).max() < 1e-4


@pytest.mark.parametrize("one", [None, Scheme(8, 0)])
def test_logits_on_codes_are_those_of_transformers(
    case: Case, one: Scheme | None, tmp_path: Path
) -> None:
    """On one scheme q, k and v are one product, else what is next to each other."""
    model = codes_for(case.model, one)
    compiled, expected = export(model, tmp_path), answer_on_codes(case, model)
    for step in (len(PROMPT), 7, 1):
        assert np.abs(logits(compiled, [PROMPT], step)[0] - expected).max() < 2e-4


def test_padding_before_a_shorter_text_changes_nothing(tmp_path: Path) -> None:
    case = make(tmp_path / "source", *CONFIGS["qwen2-windows-in-some-layers"])
    compiled = export(case.model, tmp_path / "out")
    short = PROMPT[:20]
    padded = [-1] * (len(PROMPT) - len(short)) + short
    alone = logits(compiled, [short], len(short))[0]
    for step in (len(PROMPT), 11):
        found = logits(compiled, [PROMPT, padded], step)
        assert np.abs(found[0] - case.expected).max() < 1e-4
        assert np.abs(found[1, -len(short) :] - alone).max() < 1e-4


def test_a_beam_takes_the_past_of_another(tmp_path: Path) -> None:
    """beam_idx says whose cache each row goes on with."""
    case = make(tmp_path / "source", *CONFIGS["llama"])
    compiled = export(case.model, tmp_path / "out")
    request, cut = compiled.create_infer_request(), 20
    other = [7] * cut
    for part, total, beams in (
        ([PROMPT[:cut], other], cut, [0, 1]), ([PROMPT[cut:]] * 2, len(PROMPT), [1, 0])
    ):
        ids = np.array(part)
        places = np.arange(total - ids.shape[1], total)
        found = request.infer({
            "input_ids": ids, "attention_mask": np.ones((2, total), np.int64),
            "position_ids": np.stack([places, places]), "last_tokens": np.array([1]),
            "beam_idx": np.array(beams, np.int32),
        })  # fmt: skip
    assert np.abs(found["logits"][1, -1] - case.expected[-1]).max() < 1e-4
    assert np.abs(found["logits"][0, -1] - case.expected[-1]).max() > 1e-2


@pytest.mark.parametrize("alter", ["rope_theta", "rms_norm_eps", "window"])
def test_the_comparison_sees_an_altered_graph(alter: str, tmp_path: Path) -> None:
    case = make(tmp_path / "source", *CONFIGS["mistral-window"])
    config: dict[str, Any] = dict(case.model.config)
    if alter == "rope_theta":
        rope = dict(config["rope_parameters"])
        config["rope_parameters"] = rope | {"rope_theta": rope["rope_theta"] * 1.05}
    elif alter == "window":
        config["sliding_window"] += 1
    else:
        config["rms_norm_eps"] *= 1.05
    compiled = export(replace(case.model, config=config), tmp_path / "out")
    found = logits(compiled, [PROMPT], len(PROMPT))[0]
    assert np.abs(found - case.expected).max() > 1e-3


def test_a_decoder_of_another_architecture_is_refused(tmp_path: Path) -> None:
    config = transformers.GPTNeoXConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        vocab_size=320,
    )  # fmt: skip
    transformers.GPTNeoXForCausalLM(config).save_pretrained(tmp_path / "m")
    tiny.byte_bpe(tmp_path / "m")
    model = describe(tmp_path / "m", "neox")
    assert "'gpt_neox'" in EXACT.refusal(model)
    with pytest.raises(UnsupportedError, match="'gpt_neox'"):
        EXACT.export(model, tmp_path, quiet)


IDS = [[2, 10, 11, 12, 13, 3], [2, 20, 3]]
def texts(compiled: ov.CompiledModel) -> NDArray[np.float32]:
    padded = np.array([IDS[0], [*IDS[1], 0, 0, 0]])
    known = {"input_ids": padded, "attention_mask": (padded > 0).astype(np.int64)}
    known["token_type_ids"] = np.zeros_like(padded)
    names = [port.get_any_name() for port in compiled.inputs]
    return np.asarray(compiled({name: known[name] for name in names})[0])


def test_a_classifier_scores_as_torch_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = tiny.word_piece(tmp_path / "m")
    config = transformers.BertConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        vocab_size=size, num_labels=3, initializer_range=0.1,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "m")
    source = sources.load(sources.resolve(str(tmp_path / "m"), task="classification"), quiet)
    model = rounded(source, tmp_path / "codes", 4)
    with Reference(model).quantized(model.quantized) as reference:
        expected = reference.classify(IDS)
    assert texts(export(model, tmp_path / "out")) == pytest.approx(expected, abs=5e-4)


def test_a_quantized_tensor_that_the_exported_graph_lacks_is_refused(tmp_path: Path) -> None:
    source = sources.load(sources.resolve(str(tiny.bert(tmp_path / "m"))), quiet)
    model = rounded(source, tmp_path / "codes", 8)
    name = "encoder.layer.0.output.dense.weight"
    graph = float_encoder.export(model)
    other = replace(model, replaced={name: model.weights.float32(name) * 2})
    with pytest.raises(UnsupportedError, match=r"quantize\.skip"):
        rewrite(graph, other, {})


MODULE = '''
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(4, 8, 3, padding=1)
        self.up, self.down = torch.nn.Linear(8, 64), torch.nn.Linear(64, 5)
    def forward(self, x, scale, unused):
        y = self.up(self.conv(x).transpose(1, 2)).relu()
        return self.down(y) * scale[:, None], y.mean(1) @ self.down.weight.T
def build():
    torch.manual_seed(0)
    return Net(), {"x": torch.randn(3, 4, 9).numpy(), "scale": torch.randn(3, 1).numpy(),
                   "unused": torch.zeros(3).numpy()}
'''


def test_a_module_answers_as_torch_does_at_another_batch_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_for_openvino.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "module_for_openvino", None)
    monkeypatch.delitem(sys.modules, "module_for_openvino")
    source = sources.load(sources.resolve("module_for_openvino:build"), quiet)
    model = rounded(source, tmp_path / "codes", 8)
    (tmp_path / "out").mkdir()
    written = EXACT.export(model, tmp_path / "out", quiet)
    assert [port.shape for port in written.inputs] == [("batch", 4, 9), ("batch", 1), ("batch",)]
    compiled = export(model, tmp_path / "again")
    rng = np.random.default_rng(0)
    given = {"x": rng.standard_normal((5, 4, 9)).astype(np.float32),
             "scale": rng.standard_normal((5, 1)).astype(np.float32),
             "unused": np.zeros(5, np.float32)}  # fmt: skip
    with Reference(model).quantized(model.quantized) as reference:
        expected = reference.run(**given)
    found = compiled(given)
    for name in ("output_0", "output_1"):
        assert found[name] == pytest.approx(expected[name], abs=1e-5)
