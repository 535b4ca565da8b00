"""The reference against transformers' own classes, on tiny random models of several kinds."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from edgecompile import sources
from edgecompile.errors import BadInputError, UnsupportedError, UsageError
from edgecompile.model import Model, Pooling, TensorInfo
from edgecompile.modules import build_entry_point
from edgecompile.numerics import swap
from edgecompile.numerics.pooled import pool
from edgecompile.numerics.schemes import QuantizedTensor, Scheme, representable_scale
from edgecompile.reference import Reference
from edgecompile.sources.huggingface import describe
from edgecompile.structure import filled_in
from tests import tiny

IDS = [[1, 5, 9, 2], [1, 7, 2], [1, 3, 3, 8, 11, 2]]
SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 60, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip


def saved(folder: Path, auto: Any, kind: str, **changes: Any) -> tuple[Any, Path]:
    """A random model of that model_type in a Hugging Face folder."""
    torch.manual_seed(3)
    config = transformers.CONFIG_MAPPING[kind](**{**SMALL, **changes})
    module = auto.from_config(config, attn_implementation="eager").eval()
    module.save_pretrained(folder)
    return module, folder


def opened(folder: Path, task: str, pooling: Pooling | None = None) -> Model:
    return replace(describe(folder, "m", task), pooling=pooling)


def rounded(model: Model, name: str) -> QuantizedTensor:
    weight = model.weights.float32(name)
    scales = representable_scale(np.abs(weight).max(1, keepdims=True) / 7)
    codes = np.clip(np.rint(weight / scales), -8, 7).astype(np.int8)
    return QuantizedTensor(Scheme(4, 0), codes, scales)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "mpnet", "xlm-roberta"])
def test_embeddings_equal_transformers_with_mean_pooling(kind: str, tmp_path: Path) -> None:
    names = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    module, folder = saved(
        tmp_path, transformers.AutoModel, kind, **(names if kind == "distilbert" else {})
    )
    found = Reference(opened(folder, "embedding", Pooling("mean", True, 64))).embed(IDS)
    for row, ids in zip(found, IDS, strict=True):
        hidden = module(torch.tensor([ids])).last_hidden_state.mean(1)
        expected = torch.nn.functional.normalize(hidden, dim=-1)[0].detach().numpy()
        assert np.abs(row - expected).max() < 1e-6


def test_a_checkpoint_with_a_head_fits_the_bare_encoder_and_names_what_it_leaves(
    tmp_path: Path,
) -> None:
    module, folder = saved(tmp_path, transformers.AutoModelForMaskedLM, "bert")
    reference = Reference(opened(folder, "embedding", Pooling("cls", False, 64)))
    expected = module.bert(torch.tensor([IDS[0]])).last_hidden_state[:, 0].detach().numpy()
    assert np.abs(reference.embed(IDS[:1]) - expected).max() < 1e-6
    assert any(name.startswith("cls.") for name in reference.unused)


def test_class_scores_equal_transformers(tmp_path: Path) -> None:
    module, folder = saved(
        tmp_path, transformers.AutoModelForSequenceClassification, "bert", num_labels=3
    )
    found = Reference(opened(folder, "classification")).classify(IDS)
    expected = module(torch.tensor([IDS[2]])).logits[0].detach().numpy()
    assert np.abs(found[2] - expected).max() < 1e-6


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("llama", {"tie_word_embeddings": True}), ("qwen3", {"num_key_value_heads": 2}),
     ("gemma2", {"final_logit_softcapping": 5.0}), ("gpt2", {"n_embd": 32, "n_layer": 2})],
)  # fmt: skip
def test_logits_in_pieces_equal_transformers(
    kind: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    module, folder = saved(tmp_path, transformers.AutoModelForCausalLM, kind, **changes)
    ids = np.random.default_rng(0).integers(3, 60, 40).tolist()
    reference = Reference(opened(folder, "text-generation"))
    pieces = list(reference.logit_chunks(ids, 16))
    assert [len(piece) for piece in pieces] == [16, 16, 8]
    expected = module(torch.tensor([ids])).logits[0].detach().numpy()
    assert np.abs(np.concatenate(pieces) - expected).max() < 1e-5


def test_the_last_rows_alone_are_the_last_rows_of_all(tmp_path: Path) -> None:
    _, folder = saved(tmp_path, transformers.AutoModelForCausalLM, "llama")
    reference = Reference(opened(folder, "text-generation"))
    [found] = reference.logit_chunks(IDS[0], first=2)
    np.testing.assert_allclose(found, reference.logits(IDS[0])[2:], atol=1e-6)


def likeliest(reference: Reference, ids: list[int], count: int) -> list[int]:
    """One token after the other, each from all before it at once."""
    whole = list(ids)
    for _ in range(count):
        whole.append(int(reference.logits(whole)[-1].argmax()))
    return whole[len(ids) :]


@pytest.mark.parametrize("kind", ["llama", "gemma2", "qwen3"])
def test_prompts_that_go_on_side_by_side_say_what_each_says_alone(
    kind: str, tmp_path: Path
) -> None:
    _, folder = saved(tmp_path, transformers.AutoModelForCausalLM, kind, num_key_value_heads=2)
    reference = Reference(opened(folder, "text-generation"))
    alone = [likeliest(reference, ids, 6) for ids in IDS]
    assert reference.continue_greedily(IDS, 6) == alone


def test_an_answer_ends_with_its_stop_token(tmp_path: Path) -> None:
    _, folder = saved(tmp_path, transformers.AutoModelForCausalLM, "llama")
    reference = Reference(opened(folder, "text-generation"))
    answer = likeliest(reference, IDS[0], 6)
    until = answer[: answer.index(answer[2]) + 1]
    assert reference.continue_greedily(IDS[:1], 6, {answer[2]}) == [until]


@pytest.mark.parametrize("keep_bytes", [swap.KEEP_BYTES, 0])
def test_quantized_codes_are_swapped_in_and_out_tied_head_included(
    keep_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swap, "KEEP_BYTES", keep_bytes)  # 0: layer by layer, as large models
    module, folder = saved(
        tmp_path, transformers.AutoModelForCausalLM, "llama", tie_word_embeddings=True
    )
    model = opened(folder, "text-generation")
    matrices = [name for name, info in model.weights.infos.items() if len(info.shape) == 2]
    codes = {name: rounded(model, name) for name in matrices}
    reference = Reference(model, lean=True)
    before = reference.logits(IDS[2])
    with reference.quantized(codes):
        inside = reference.logits(IDS[2])
    state = {name: torch.from_numpy(codes[name].dequantize()) for name in matrices}
    module.load_state_dict(state, strict=False)
    expected = module(torch.tensor([IDS[2]])).logits[0].detach().numpy()
    assert np.abs(inside - expected).max() < 1e-5
    assert np.array_equal(reference.logits(IDS[2]), before)
    assert not np.array_equal(inside, before)


def test_a_missing_tensor_and_a_wrong_shape_are_named(tmp_path: Path) -> None:
    _, folder = saved(tmp_path, transformers.AutoModelForCausalLM, "llama")
    model = opened(folder, "text-generation")
    name = "model.layers.1.mlp.up_proj.weight"
    taken = model.weights.infos.pop(name)
    with pytest.raises(BadInputError, match=name):
        Reference(model)
    model.weights.infos[name] = TensorInfo(taken.file, (3, 4), "F32")
    with pytest.raises(BadInputError, match=r"has shape \(3, 4\)"):
        Reference(model)


def test_an_unknown_architecture_is_refused_without_running_its_code(tmp_path: Path) -> None:
    _, folder = saved(tmp_path, transformers.AutoModel, "bert")
    model = opened(folder, "embedding", Pooling("mean", True, 64))
    model.config.update(model_type="mine", auto_map={"AutoModel": "evil.Model"})  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedError, match="'mine' is unknown"):
        Reference(model)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("mean", [2.0, 3.0]), ("cls", [1.0, 2.0]), ("max", [3.0, 4.0]), ("lasttoken", [3.0, 4.0]),
     ("mean_sqrt_len", [4.0 / 2**0.5, 6.0 / 2**0.5])],
)  # fmt: skip
def test_pooling_leaves_padding_out(mode: str, expected: list[float]) -> None:
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [99.0, 99.0]]])
    assert pool(hidden, torch.tensor([[1, 1, 0]]), mode)[0].tolist() == pytest.approx(expected)


def test_an_entry_point_that_cannot_be_used_is_a_usage_error() -> None:
    for name, says in (("no.such:thing", "No module"), ("json:nothing", "nothing")):
        with pytest.raises(UsageError, match=says):
            build_entry_point(name)


def test_a_config_that_transformers_refuses_is_bad_input(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = "two"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInputError, match=r"config\.json"):
        filled_in(sources.describe(sources.resolve(str(folder))))


def test_filling_in_a_config_leaves_the_source_as_it_is(tmp_path: Path) -> None:
    model = sources.describe(sources.resolve(str(tiny.llama(tmp_path / "m"))))
    before = json.dumps(model.config, sort_keys=True)
    filled_in(model)
    assert json.dumps(model.config, sort_keys=True) == before
