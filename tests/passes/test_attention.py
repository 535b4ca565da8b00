"""A sliding window for a decoder with dense attention: what it sees, what transformers loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgecompile import sources
from edgecompile.errors import UnsupportedError, UsageError
from edgecompile.model import Model
from edgecompile.passes.attention import Attention
from edgecompile.reference import Reference
from tests import tiny
from tests.architectures import cells

KINDS = {kind.model_type: kind for kind in cells.KINDS}
IDS = np.random.default_rng(0).integers(3, 250, 40).tolist()
WINDOW = 8


def load(folder: Path) -> Model:
    return sources.load(sources.resolve(str(folder)), lambda *_: None)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(tiny.llama(tmp_path_factory.mktemp("llama") / "model"))


def masked(model: Model, windows: list[int]) -> np.ndarray:
    """Logits of a Llama whose layers compute with masks of our own; 0: dense."""
    body: Any = Reference(model).body
    places = torch.arange(len(IDS))
    back = places[:, None] - places[None]

    def hook(window: int) -> Any:
        seen = (back >= 0) & (back < (window or len(IDS)))
        mask = torch.where(seen, 0.0, float("-inf"))[None, None]

        def before(_module: Any, args: Any, named: dict[str, Any]) -> Any:
            return args, named | {"attention_mask": mask}

        return before

    for layer, window in zip(body.model.layers, windows, strict=True):
        layer.self_attn.register_forward_pre_hook(hook(window), with_kwargs=True)
    with torch.inference_mode():
        found: np.ndarray = body(input_ids=torch.tensor([IDS]), use_cache=False).logits[0].numpy()
    return found


@pytest.mark.parametrize(
    ("options", "kind", "windows"),
    [({}, "mistral", [WINDOW, WINDOW]), ({"dense_every": 2}, "smollm3", [WINDOW, 0])],
)
def test_a_llama_with_a_window_computes_what_a_llama_with_that_mask_does(
    options: dict[str, Any], kind: str, windows: list[int], llama: Model, tmp_path: Path
) -> None:
    made = Attention(window=WINDOW, **options)(llama, tiny.work(tmp_path / "work")).model
    assert made.architecture == kind
    np.testing.assert_allclose(Reference(made).logits(IDS), masked(llama, windows), atol=2e-5)


def test_inside_the_window_nothing_changes(llama: Model, tmp_path: Path) -> None:
    made = Attention(window=WINDOW)(llama, tiny.work(tmp_path / "work")).model
    before, after = (Reference(one).logits(IDS)[:WINDOW] for one in (llama, made))
    np.testing.assert_allclose(after, before, atol=2e-5)


def test_the_tensors_are_the_same_bytes(llama: Model, tmp_path: Path) -> None:
    made = Attention(window=WINDOW)(llama, tiny.work(tmp_path / "work")).model
    assert all(torch.equal(made.weights[n], llama.weights[n]) for n in llama.weights)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3"])
def test_transformers_loads_the_folder_and_computes_the_same(
    architecture: str, tmp_path: Path
) -> None:
    import transformers

    model = cells.make(KINDS[architecture], "text-generation", tmp_path / "model")
    made = Attention(window=WINDOW)(model, tiny.work(tmp_path / "work")).model
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        made.folder, dtype=torch.float32
    )
    with torch.inference_mode():
        found = loaded.eval()(input_ids=torch.tensor([IDS])).logits[0].numpy()
    np.testing.assert_allclose(found, Reference(made).logits(IDS), atol=2e-5)
    assert np.abs(found - Reference(model).logits(IDS)).max() > 1e-3


def test_a_report_says_what_each_layer_sees(llama: Model, tmp_path: Path) -> None:
    result = Attention(window=WINDOW, dense_every=2)(llama, tiny.work(tmp_path / "work"))
    assert [(row.action, row.detail) for row in result.layers] == [
        ("changed", "sees 8 positions"), ("skipped", "stays dense: dense_every")
    ]  # fmt: skip


def test_the_config_says_the_window_as_other_tools_read_it(llama: Model, tmp_path: Path) -> None:
    made = Attention(window=WINDOW)(llama, tiny.work(tmp_path / "work")).model
    config = json.loads((made.folder / "config.json").read_text())
    assert config["architectures"] == ["MistralForCausalLM"]
    assert (config["model_type"], config["sliding_window"]) == ("mistral", WINDOW)


@pytest.mark.parametrize("architecture", ["bert", "gemma3_text"])
def test_what_no_config_can_say_is_refused_with_the_reason(
    architecture: str, tmp_path: Path
) -> None:
    described = KINDS[architecture]
    model = cells.make(described, described.tasks[0], tmp_path / "model")
    with pytest.raises(UnsupportedError, match=f"a window for {architecture}: its"):
        Attention(window=4).headers(model)


def test_blocks_are_refused_since_no_other_tool_would_compute_them(llama: Model) -> None:
    with pytest.raises(UnsupportedError, match="block-local attention: no config"):
        Attention(window=WINDOW, pattern="block-local").headers(llama)


def test_a_llama_with_biases_is_no_mistral(tmp_path: Path) -> None:
    model = load(tiny.llama(tmp_path / "model", attention_bias=True))
    with pytest.raises(UnsupportedError, match="attention_bias"):
        Attention(window=WINDOW).headers(model)


@pytest.mark.parametrize("architecture", ["phi3", "mistral"])
def test_one_window_for_all_layers_leaves_none_dense(architecture: str, tmp_path: Path) -> None:
    model = cells.make(KINDS[architecture], "text-generation", tmp_path / "model")
    with pytest.raises(UnsupportedError, match="dense_every"):
        Attention(window=WINDOW, dense_every=2).headers(model)


def test_a_window_that_hides_nothing_is_refused(llama: Model) -> None:
    with pytest.raises(UsageError, match="256, of 256"):
        Attention(window=256).headers(llama)


@pytest.mark.parametrize(
    ("options", "says"),
    [({}, "window"), ({"window": -1}, "window"), ({"window": 8, "dense_every": 1}, "dense_every")],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Attention(**options)
