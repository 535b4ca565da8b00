"""A walk's blocks compute what the whole model computes, whatever the architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgecompile import sources
from edgecompile.calibration.batches import text_batches
from edgecompile.calibration.moments import Moments, rows_of
from edgecompile.calibration.walk import Walk
from edgecompile.model import Model
from edgecompile.text.parts import Document
from tests import tiny

WIDE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 128, "initializer_range": 0.1,
}  # fmt: skip
GROUPED = WIDE | {"num_key_value_heads": 2, "head_dim": 16}
LOCAL = {"sliding_window": 16}
MIXED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
DECODERS: dict[str, dict[str, Any]] = {
    "llama": GROUPED, "qwen2": GROUPED, "mistral": GROUPED | LOCAL,
    "gemma2": GROUPED | LOCAL, "gemma3_text": GROUPED | LOCAL | MIXED, "falcon": WIDE,
}  # fmt: skip
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": WIDE, "mpnet": WIDE,
    "modernbert": WIDE | {"local_attention": 16, "global_attn_every_n_layers": 2},
    "deberta-v2": WIDE | {
        "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16
    },
}  # fmt: skip
WHOLE = {"albert": WIDE | {"embedding_size": 32}}  # one block, used three times


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def made(folder: Path, kind: str) -> Model:
    import transformers

    torch.manual_seed(0)
    if kind in DECODERS:
        special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        size, auto = tiny.byte_bpe(folder), transformers.AutoModelForCausalLM
    else:
        special = {"pad_token_id": 0}
        size, auto = tiny.word_piece(folder), transformers.AutoModel
        names = {"": "Transformer", "1_Pooling": "Pooling"}
        modules = [{"path": p, "type": f"x.models.{k}"} for p, k in names.items()]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        pooling = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    settings = (DECODERS | ENCODERS | WHOLE)[kind]
    config = transformers.CONFIG_MAPPING[kind](**special | settings | {"vocab_size": size})
    auto.from_config(config).save_pretrained(folder)
    tiny.card(folder)
    return sources.load(sources.resolve(str(folder)), quiet)


def walked(model: Model, folder: Path) -> Walk:
    folder.mkdir(exist_ok=True)
    given = tiny.corpus().calibration
    texts = [Document(one.text[: 25 * (index + 1)]) for index, one in enumerate(given[:8])]
    return Walk(model, text_batches(model, texts, 8, 48), folder)


def first(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


@pytest.mark.parametrize("kind", [*DECODERS, *ENCODERS])
def test_blocks_give_what_the_whole_model_gives(kind: str, tmp_path: Path) -> None:
    walk = walked(made(tmp_path / "m", kind), tmp_path / "w")
    assert len(walk.blocks) == 3
    expected: list[list[Tensor]] = []
    for batch in walk.batches:
        seen: list[Tensor] = []
        hooks = [
            block.register_forward_hook(lambda _m, _a, out, seen=seen: seen.append(first(out)))
            for _, block in walk.blocks
        ]
        with torch.inference_mode():
            walk.body(**batch.inputs)
        for hook in hooks:
            hook.remove()
        expected.append(seen)
    for index in range(3):
        walk.hold(index)
        walk.advance(index, lambda _done: None)
        walk.drop(index)
        for batch, seen in enumerate(expected):
            found = walk.given[batch]
            assert float((found - seen[index]).norm()) <= 1e-5 * float(seen[index].norm())
    walk.close()
    assert not (tmp_path / "w" / "activations").exists()


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_inputs_of_a_layer_are_those_of_the_whole_model_without_padding(
    kind: str, tmp_path: Path
) -> None:
    walk = walked(made(tmp_path / "m", kind), tmp_path / "w")
    walk.hold(0)
    last = walk.layers(0)[-1][0]
    seen: list[np.ndarray] = []
    for batch in walk.batches:

        def note(_module: Any, args: Any, mask: Tensor | None = batch.mask) -> None:
            seen.append(rows_of(args[0], mask).numpy())

        hook = last.linear.register_forward_pre_hook(note)
        with torch.inference_mode():
            walk.body(**batch.inputs)
        hook.remove()
    found = [rows.numpy() for rows in walk.inputs(0, last, walk.given)]
    for ours, theirs in zip(found, seen, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    if kind == "bert":
        padded = sum(int(b.mask.numel() - b.mask.sum()) for b in walk.batches if b.mask is not None)
        every = sum(b.inputs["input_ids"].numel() for b in walk.batches)
        assert 0 < padded == every - sum(map(len, found))
    walk.close()


def test_a_block_that_is_used_again_and_again_is_walked_as_a_whole_model(tmp_path: Path) -> None:
    walk = walked(made(tmp_path / "m", "albert"), tmp_path / "w")
    assert walk.whole
    walk.hold(0)
    query = next(g[0] for g in walk.layers(0) if "query" in g[0].source)
    rows = sum(len(part) for part in walk.inputs(0, query, walk.given))
    tokens = sum(int(b.mask.sum()) for b in walk.batches if b.mask is not None)
    assert rows == 3 * tokens, "all three uses count"
    walk.close()


def test_layers_that_read_the_same_tensor_stand_together(tmp_path: Path) -> None:
    walk = walked(made(tmp_path / "m", "llama"), tmp_path / "w")
    walk.hold(1)
    groups = [{layer.source.split(".")[-2] for layer in group} for group in walk.layers(1)]
    assert groups == [
        {"q_proj", "k_proj", "v_proj"}, {"o_proj"}, {"gate_proj", "up_proj"}, {"down_proj"}
    ]  # fmt: skip
    walk.close()


@pytest.mark.parametrize("cores", [1, 3])
def test_moments_are_numpys(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecompile.numerics.parallel.usable_cores", lambda: cores)
    chance = np.random.default_rng(0)
    parts = [chance.standard_normal((n, 600)).astype("f4") for n in (1, 40, 7)]
    sources_ = [part + chance.standard_normal(part.shape).astype("f4") for part in parts]
    moments = Moments(600)
    for part, source in zip(parts, sources_, strict=True):
        moments.add(torch.from_numpy(part), torch.from_numpy(source))
    x, y = (np.concatenate(rows).astype("f8") for rows in (parts, sources_))
    assert moments.tokens == 48
    np.testing.assert_allclose(moments.mean().numpy(), x.T @ x / 48, rtol=1e-4, atol=1e-4)
    assert moments.cross is not None
    np.testing.assert_allclose(moments.cross.numpy(), y.T @ x, rtol=1e-4, atol=1e-3)


def test_no_tokens_have_no_moments() -> None:
    assert float(Moments(4).mean().abs().sum()) == 0


def test_padding_is_no_row() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    values = torch.arange(12.0).view(2, 3, 2)
    assert rows_of(values, mask).tolist() == [[0, 1], [2, 3], [6, 7]]
    assert len(rows_of(values, None)) == 6
    assert len(rows_of(values[:, 0], mask)) == 2, "a pooled vector a text has no padding"
