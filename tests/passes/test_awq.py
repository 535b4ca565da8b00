"""quantize_awq on small true architectures: where scales go, what they gain, what ships."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgecompile import sources
from edgecompile.build import build
from edgecompile.calibration.batches import text_batches
from edgecompile.calibration.folds import Folding, proportions
from edgecompile.calibration.walk import Layer, Walk
from edgecompile.model import Model
from edgecompile.passes import LayerReport, PassResult
from edgecompile.passes.quantize_awq import QuantizeAwq
from edgecompile.plan import Request, plan
from edgecompile.reference import Reference
from edgecompile.structure import roles
from tests import tiny

# Random weights have no columns that stand out of a shrunk Hessian.
FEW: dict[str, Any] = {"bits": 4, "texts": 4, "length": 64, "shrink": 0.0}


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def qwen2(folder: Path) -> Path:
    """A Qwen2 of two layers, with biases at q, k and v that matter."""
    import transformers

    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=tiny.byte_bpe(folder), initializer_range=0.1,
        max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = transformers.Qwen2ForCausalLM(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("_proj.bias"):
                value.copy_(torch.randn_like(value))
    model.save_pretrained(folder)
    tiny.card(folder)
    return folder


def gemma3(folder: Path) -> Path:
    """A Gemma 3 of two layers, whose norms multiply with 1 + w; w is not the zeros of a new one."""
    import transformers

    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, query_pre_attn_scalar=16, sliding_window=16,
        vocab_size=tiny.byte_bpe(folder), max_position_embeddings=256, initializer_range=0.1,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    model = transformers.Gemma3ForCausalLM(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("norm.weight"):
                value.copy_(3 * torch.rand_like(value))
    model.save_pretrained(folder)
    tiny.card(folder)
    return folder


def bert(folder: Path) -> Path:
    """Tiny BERT with a few value channels that stand out, as trained models have them."""
    weights = load_file(tiny.bert(folder) / "model.safetensors")
    for name, value in weights.items():
        if name.endswith("self.value.weight"):
            value[::8] *= 30
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


MAKERS = {"llama": tiny.llama, "qwen2": qwen2, "bert": bert}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {n: make(tmp_path_factory.mktemp(n) / f"tiny-{n}") for n, make in MAKERS.items()}


def load(folder: Path) -> Model:
    return sources.load(sources.resolve(str(folder)), quiet)


@pytest.fixture(scope="module")
def results(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, PassResult]:
    folder = tmp_path_factory.mktemp("work")
    return {
        name: QuantizeAwq(**FEW)(load(source), tiny.work(folder / name))
        for name, source in folders.items()
    }


def rows(result: PassResult) -> dict[str, LayerReport]:
    return {row.name.removeprefix("model."): row for row in result.layers}


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_decoders_scales_go_to_norms_values_and_the_linear_half_of_its_mlp(
    results: dict[str, PassResult], name: str
) -> None:
    found = rows(results[name])
    neighbours = {
        "self_attn.q_proj": "input_layernorm", "self_attn.k_proj": "input_layernorm",
        "self_attn.v_proj": "input_layernorm", "self_attn.o_proj": "self_attn.v_proj",
        "mlp.gate_proj": "post_attention_layernorm", "mlp.up_proj": "post_attention_layernorm",
        "mlp.down_proj": "mlp.up_proj",
    }  # fmt: skip
    for layer in ("layers.0", "layers.1"):
        for matrix, neighbour in neighbours.items():
            detail = found[f"{layer}.{matrix}.weight"].detail
            assert f"model.{layer}.{neighbour}.weight" in detail


def test_berts_norms_feed_the_residual_too_and_take_no_scale(
    results: dict[str, PassResult],
) -> None:
    found = rows(results["bert"])
    for matrix in ("attention.self.query", "intermediate.dense", "output.dense"):
        detail = found[f"encoder.layer.1.{matrix}.weight"].detail
        assert "not scaled: no foldable neighbour" in detail
    detail = found["encoder.layer.1.attention.output.dense.weight"].detail
    assert "encoder.layer.1.attention.self.value.weight" in detail
    assert not any("LayerNorm" in name for name in results["bert"].model.replaced)


@pytest.mark.parametrize("name", MAKERS)
def test_no_calibrated_layer_errs_more_than_rounded_to_nearest(
    results: dict[str, PassResult], name: str
) -> None:
    calibrated = [row for row in results[name].layers if row.of == "outputs"]
    assert calibrated
    for row in calibrated:
        assert row.nearest is not None
        assert row.error <= row.nearest, row.name


def test_what_took_a_scale_is_reported_as_changed(results: dict[str, PassResult]) -> None:
    for result in results.values():
        assert result.model.replaced
        for name in result.model.replaced:
            row = next(row for row in result.layers if row.name == name)
            assert row.action == "changed"


def test_qwen2s_value_biases_are_scaled_with_their_rows(results: dict[str, PassResult]) -> None:
    replaced = results["qwen2"].model.replaced
    assert any(name.endswith("v_proj.bias") for name in replaced)


class Block:
    """The first block of a model, its groups, and where their scales may go."""

    def __init__(self, folder: Path, scratch: Path, skip: str = "") -> None:
        model, scratch = load(folder), tiny.work(scratch).folder
        corpus = tiny.work(scratch).corpus()
        self.walk = Walk(model, text_batches(model, corpus.calibration, 2, 48), scratch)
        self.walk.hold(0)
        self.groups = self.walk.layers(0)
        names = [n for n, role in roles(model).items() if role == "linear" and n != skip]
        self.folding = Folding(self.walk, 0, names)

    def group(self, suffix: str) -> list[Layer]:
        return next(g for g in self.groups if any(x.source.endswith(suffix) for x in g))

    def output(self) -> torch.Tensor:
        return self.walk.run(0, 0, self.walk.given[0])


@pytest.fixture
def llama_block(folders: dict[str, Path], tmp_path: Path) -> Iterator[Block]:
    block = Block(folders["llama"], tmp_path / "w")
    yield block
    block.walk.close()


@pytest.mark.parametrize("name", MAKERS)
def test_folding_leaves_the_float_block_as_it_was(
    folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    block = Block(folders[name], tmp_path / "w")
    before, folded = block.output(), 0
    for group in block.groups:
        neighbour = block.folding.find(group)
        if neighbour is None:
            continue
        scale = torch.linspace(0.1, 10, int(neighbour.channels.max()) + 1)[neighbour.channels]
        block.folding.fold(neighbour, group, scale)
        folded += 1
    assert folded == {"llama": 4, "qwen2": 4, "bert": 1}[name]
    assert torch.allclose(block.output(), before, rtol=1e-3, atol=1e-4)
    block.walk.close()


def test_query_heads_that_share_a_value_head_share_its_channels(llama_block: Block) -> None:
    neighbour = llama_block.folding.find(llama_block.group("o_proj.weight"))
    assert neighbour is not None
    heads = torch.arange(32).view(2, 1, 16).expand(2, 2, 16)  # 4 query heads, 2 value heads of 16
    assert (neighbour.channels == heads.reshape(-1)).all()


def test_gate_is_not_linear_and_query_is_no_value(llama_block: Block) -> None:
    folding = llama_block.folding
    gate, query = "mlp.gate_proj", "self_attn.q_proj"
    folding.modules = {path: folding.modules[path] for path in (gate, query)}
    assert folding.find(llama_block.group("down_proj.weight")) is None
    assert folding.find(llama_block.group("o_proj.weight")) is None


def test_a_neighbour_that_stays_float_takes_no_scale(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    skipped = "model.layers.0.self_attn.v_proj.weight"
    settings = QuantizeAwq(**FEW, skip=(skipped,))
    found = rows(settings(load(folders["llama"]), tiny.work(tmp_path)))
    assert "no foldable neighbour" in found["layers.0.self_attn.o_proj.weight"].detail
    assert "v_proj" in found["layers.1.self_attn.o_proj.weight"].detail, "the next block has one"
    detail = found["layers.0.self_attn.q_proj.weight"].detail
    assert f"{skipped} shares its input and stays float" in detail


def test_a_block_of_another_width_does_not_take_the_first_ones_neighbours(
    llama_block: Block,
) -> None:
    folding, group = llama_block.folding, llama_block.group("down_proj.weight")
    known = folding.find(group)
    assert known is not None
    assert folding.alike(known, group) is not None
    wider = dataclasses.replace(known, channels=torch.arange(256))
    assert folding.alike(wider, group) is None


def test_norms_that_multiply_with_one_plus_their_weight_take_no_scale(tmp_path: Path) -> None:
    block = Block(gemma3(tmp_path / "gemma3"), tmp_path / "w")
    found = {g[0].source.split(".")[-2]: block.folding.find(g) for g in block.groups}
    block.walk.close()
    assert {name: n.path if n else "" for name, n in found.items()} == {
        "q_proj": "", "o_proj": "self_attn.v_proj", "gate_proj": "", "down_proj": "mlp.up_proj",
    }  # fmt: skip


def test_columns_that_follow_no_scale_have_no_neighbour() -> None:
    x = torch.randn(32, 8)
    probe = torch.linspace(2, 9, 8)
    assert proportions(x, x, probe) is None
    assert proportions(x, torch.tanh(x) / probe, probe) is None
    found = proportions(x, x / probe.flip(0), probe)
    assert found is not None
    assert found.tolist() == list(range(8))[::-1]


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_killed_run_goes_on_to_the_same_bytes(
    folders: dict[str, Path], results: dict[str, PassResult], tmp_path: Path, name: str
) -> None:
    work = tiny.work(tmp_path)

    def die(_what: str, _done: int, _total: int) -> None:
        if list(tmp_path.glob("codes-*.safetensors")):
            raise KilledError

    model = load(folders[name])
    with pytest.raises(KilledError):
        QuantizeAwq(**FEW)(model, dataclasses.replace(work, progress=die))
    first = next(tmp_path.glob("codes-*.safetensors"))
    stamp = first.stat().st_mtime_ns
    again = QuantizeAwq(**FEW)(model, work)
    assert first.stat().st_mtime_ns == stamp, "the finished block is not done again"
    whole = results[name]
    assert again.layers == whole.layers
    for tensor in whole.model.quantized:
        found, wanted = (r.model.quantized[tensor].digest(tensor) for r in (again, whole))
        assert found == wanted, tensor
    assert again.model.replaced.keys() == whole.model.replaced.keys()
    for tensor, values in whole.model.replaced.items():
        assert (again.model.replaced[tensor] == values).all()


def test_rounding_to_nearest_takes_scales_too(folders: dict[str, Path], tmp_path: Path) -> None:
    settings = QuantizeAwq(**FEW, rounding="nearest")
    result = settings(load(folders["llama"]), tiny.work(tmp_path))
    errors = [(r.error, r.nearest) for r in result.layers if r.nearest is not None]
    ours, nearest = (sum(e**2 for e in side) for side in zip(*errors, strict=True))
    assert ours < nearest


def test_gemma_3_scaled_where_it_can_be_computes_what_the_source_does(tmp_path: Path) -> None:
    model, ids = load(gemma3(tmp_path / "gemma3")), list(range(5, 60))
    changed = QuantizeAwq(**FEW | {"bits": 8})(model, tiny.work(tmp_path / "w")).model
    reference = Reference(model)
    wanted = reference.logits(ids)
    with reference.quantized(changed.quantized, changed.replaced):
        found = reference.logits(ids)
    assert not changed.replaced
    assert np.linalg.norm(found - wanted) < 0.1 * np.linalg.norm(wanted)


def test_the_scaled_model_computes_what_the_source_does(
    results: dict[str, PassResult], folders: dict[str, Path], tmp_path: Path
) -> None:
    """At 8 bits; without the replaced floats the answers would be far off."""
    model = load(folders["qwen2"])
    settings = QuantizeAwq(**FEW | {"bits": 8})
    changed = settings(model, tiny.work(tmp_path)).model
    ids = list(range(5, 60))
    reference = Reference(model)
    wanted = reference.logits(ids)
    with reference.quantized(changed.quantized, changed.replaced):
        found = reference.logits(ids)
    with reference.quantized(changed.quantized):
        wrong = reference.logits(ids)
    assert np.linalg.norm(found - wanted) < 0.03 * np.linalg.norm(wanted)
    assert np.linalg.norm(wrong - wanted) > 0.1 * np.linalg.norm(wanted)
    assert (reference.logits(ids) == wanted).all(), "all is as before afterwards"


BUILDS = [("llama", "cpu"), ("llama", "gguf"), ("qwen2", "gguf"), ("bert", "cpu"), ("bert", "gguf")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), BUILDS)
def test_a_bundle_ships_the_scaled_floats_and_answers_as_torch_on_them(
    folders: dict[str, Path], tmp_path: Path, name: str, target: str
) -> None:
    few = ("texts=4", "length=64", "shrink=0")
    settings = ("quantize.method=awq", *(f"quantize.{one}" for one in few))
    request = Request(str(folders[name]), (target,), tmp_path, settings=settings)
    (result,) = build(plan(request), quiet)
    steps = {row.metric: row for row in result.report.rows}
    for metric in ("codes_differing", "floats_differing", "tensors_missing"):
        assert steps[metric].value == 0, steps[metric]
    manifest = json.loads((result.bundle / "manifest.json").read_text())
    changed = [r for p in manifest["passes"] for r in p["layers"] if "took" in r["detail"]]
    assert changed
    export = steps.get("export_kl_mean") or steps["export_cosine_min"]
    assert export.verdict == "pass", export
