"""Our own decoder graph computes what transformers computes, on floats and on codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from numpy.typing import NDArray

from edgecompile import bundle
from edgecompile.architectures import DECODERS
from edgecompile.backends import Export, decoders
from edgecompile.backends.onnx_graph import storage
from edgecompile.backends.onnxruntime import Onnxruntime
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import QuantizedTensor, Scheme
from edgecompile.pruning.checkpoint import as_published
from edgecompile.sources.huggingface import describe
from tests import tiny

EXACT = Onnxruntime(accuracy_level=1)
SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-3, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}
WINDOWS = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
LONGROPE = {
    "pad_token_id": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "original_max_position_embeddings": 128,
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 100.0, "partial_rotary_factor": 0.5,
        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7], "long_factor": [4.0] * 8,
        "original_max_position_embeddings": 128,
    },
}  # fmt: skip
GEMMA3 = {
    "head_dim": 32, "query_pre_attn_scalar": 24, "rms_norm_eps": 3e-2, "sliding_window": 7,
    "attention_bias": True,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 8.0},
    },
}  # fmt: skip
GEMMA2 = {
    "head_dim": 32, "query_pre_attn_scalar": 24, "rms_norm_eps": 3e-2, "sliding_window": 7,
    "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
}  # fmt: skip
GRANITE = {
    "embedding_multiplier": 5.0, "residual_multiplier": 0.7, "attention_multiplier": 0.4,
    "logits_scaling": 3.0,
}  # fmt: skip
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-biases-wide-heads": (
        "llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 32}
    ),
    "llama-llama3-rope": ("llama", {"rope_parameters": LLAMA3}),
    "llama-linear-rope": ("llama", {"rope_parameters": LINEAR}),
    "llama-yarn-rope": ("llama", {"rope_parameters": YARN}),
    "mistral-window": ("mistral", {"sliding_window": 7, "head_dim": 16}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-windows-in-some-layers": ("qwen2", WINDOWS),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0, 1], "pad_token_id": 1}),
    "phi3": ("phi3", {"pad_token_id": 1}),
    "phi3-partial-longrope": ("phi3", LONGROPE),
    "gemma": ("gemma", {"head_dim": 32}),
    "gemma2": ("gemma2", GEMMA2),
    "granite": ("granite", GRANITE),
    "gpt2": ("gpt2", {"n_inner": 96, "layer_norm_epsilon": 1e-3}),
    "gpt2-unscaled": ("gpt2", {"scale_attn_weights": False, "layer_norm_epsilon": 1e-3}),
    "gemma3": ("gemma3_text", {**GEMMA3, "sliding_window": 512}),
    "gemma3-window": ("gemma3_text", GEMMA3),
}  # fmt: skip
PROMPT = [0, *range(5, 315, 9)]


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


@dataclass(frozen=True)
class Case:
    """A source folder, its torch module and what the module answers on PROMPT."""

    folder: Path
    module: Any
    expected: NDArray[np.float32]

    @property
    def model(self) -> Model:
        return describe(self.folder, "tiny")


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    kind, changes = CONFIGS[request.param]
    return make(tmp_path_factory.mktemp("source"), kind, changes)


def make(folder: Path, kind: str, changes: Mapping[str, Any]) -> Case:
    """Random weights of which every one matters: small embeddings, so that epsilon does too."""
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](**{**SIZES, "rope_theta": 100.0, **changes})
    auto = transformers.AutoModelForCausalLM
    module = auto.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, value in module.named_parameters():
            table = "embed" in name or name.endswith(("wte.weight", "wpe.weight"))
            spread = 0.05 if table else 0.3 if value.dim() > 1 else 0.2
            centre = "norm" in name or (".ln_" in name and name.endswith("weight"))
            value.copy_(torch.randn_like(value) * spread + centre)
    module.save_pretrained(folder)
    tiny.byte_bpe(folder)
    return Case(folder, module, answer(module))


def answer(module: Any) -> NDArray[np.float32]:
    with torch.no_grad():
        found: NDArray[np.float32] = module(torch.tensor([PROMPT])).logits[0].numpy()
    return found


def rounded(model: Model, one: Scheme | None = None) -> Model:
    """Codes for every matrix: 4 bits, but 8 for the embedding and v_proj, or all on `one`."""
    codes: dict[str, QuantizedTensor] = {}
    for name, info in model.weights.infos.items():
        if len(info.shape) == 2 and not name.endswith("wpe.weight"):  # no pass rounds positions
            wide = "embed" in name or "wte" in name or "v_proj" in name
            scheme = one or (Scheme(8, 0) if wide else Scheme(4, 32))
            codes[name] = quantize(model.weights.float32(name), scheme, search=False)
    return replace(model, quantized=codes)


def answer_on_codes(case: Case, model: Model) -> NDArray[np.float32]:
    """torch's answer with the dequantized codes; its weights are put back."""
    before = {name: value.clone() for name, value in case.module.state_dict().items()}
    case.module.load_state_dict(
        {
            name: as_published(model.architecture, name, torch.from_numpy(model.dense(name)))
            for name in model.quantized
        },
        strict=False,
    )
    found = answer(case.module)
    case.module.load_state_dict(before)
    return found


def export(model: Model, folder: Path) -> Export:
    folder.mkdir(exist_ok=True)
    return EXACT.export(model, folder, quiet)


def run(folder: Path, written: Export, ids: list[int], step: int) -> NDArray[np.float32]:
    """Logits of all `ids`, fed `step` at a time with the cache grown between the calls."""
    session, options = onnxruntime.InferenceSession(folder / storage.GRAPH), written.options
    shape = (1, options["kv_heads"], 0, options["head_size"])
    names = [port.name for port in written.inputs if port.name.startswith("past")]
    past = dict.fromkeys(names, np.zeros(shape, np.float32))
    found = []
    for start in range(0, len(ids), step):
        part = ids[start : start + step]
        mask = np.ones((1, start + len(part)), np.int64)
        inputs = {"input_ids": np.array([part]), "attention_mask": mask, **past}
        outputs = session.run(None, inputs | {"last_tokens": np.array([len(part)])})
        found.append(outputs[0][0])
        present = dict(zip([port.name for port in written.outputs], outputs, strict=True))
        past = {name: present[name.replace("past_key_values", "present")] for name in names}
    return np.concatenate(found)


@pytest.mark.parametrize("step", [len(PROMPT), 1])
def test_float_logits_are_those_of_transformers(case: Case, step: int, tmp_path: Path) -> None:
    written = export(case.model, tmp_path)
    found = run(tmp_path, written, PROMPT, step)
    assert np.abs(found - case.expected).max() < 1e-4


@pytest.mark.parametrize("one", [None, Scheme(4, 32), Scheme(8, 0)])
def test_logits_on_codes_are_those_of_transformers(
    case: Case, one: Scheme | None, tmp_path: Path
) -> None:
    """On one scheme q, k and v are one product, else what is next to each other."""
    model = rounded(case.model, one)
    written = export(model, tmp_path)
    expected = answer_on_codes(case, model)
    for step in (len(PROMPT), 1):
        assert np.abs(run(tmp_path, written, PROMPT, step) - expected).max() < 1e-4


def other_positions(model: Model) -> Model:
    """Another base of their rotation, or rows of their table in each other's place."""
    table = next((name for name in model.weights if name.endswith("wpe.weight")), "")
    if table:
        return replace(model, replaced={table: np.roll(model.dense(table), 1, axis=0)})
    rope = model.config["rope_parameters"]
    changed = {key: faster(one) for key, one in rope.items() if isinstance(one, dict)}
    return with_config(model, rope_parameters=changed or faster(rope))


def faster(rope: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**rope, "rope_theta": rope["rope_theta"] * 1.05}


def other_epsilon(model: Model) -> Model:
    name = DECODERS[model.architecture].epsilon
    return with_config(model, **{name: model.config[name] * 1.05})


def other_heads(model: Model) -> Model:
    """The rows of two query heads change places, in the first layer alone."""
    ends = ("self_attn.q_proj.weight", "self_attn.qkv_proj.weight", "c_attn.weight")
    name = next(name for name in model.weights if name.endswith(ends))
    weight = model.dense(name)
    size = model.config.get("head_dim") or 64 // model.common_config["num_attention_heads"]
    order = np.arange(len(weight))
    order[: 2 * size] = np.roll(order[: 2 * size], size)
    return replace(model, replaced={name: weight[order]})


def with_config(model: Model, **changes: Any) -> Model:
    return replace(model, config={**model.config, **changes})


@pytest.mark.parametrize("alter", [other_positions, other_epsilon, other_heads])
def test_the_comparison_sees_an_altered_graph(case: Case, alter: Any, tmp_path: Path) -> None:
    written = export(alter(case.model), tmp_path)
    assert np.abs(run(tmp_path, written, PROMPT, len(PROMPT)) - case.expected).max() > 1e-3


@pytest.mark.parametrize("kind", ["mistral-window", "qwen2-windows-in-some-layers"])
def test_the_comparison_sees_a_window_that_is_one_wider(kind: str, tmp_path: Path) -> None:
    case = make(tmp_path / "source", *CONFIGS[kind])
    wider = with_config(case.model, sliding_window=case.model.config["sliding_window"] + 1)
    written = export(wider, tmp_path / "out")
    found = run(tmp_path / "out", written, PROMPT, len(PROMPT))
    assert np.abs(found - case.expected).max() > 1e-3


def manifest(model: Model, written: Export) -> Mapping[str, Any]:
    return {
        "tensors": bundle.tensor_entries(model, written),
        "floats": bundle.float_entries(model, written),
        "engine": {"options": dict(written.options)},
    }


@pytest.mark.parametrize("one", [None, Scheme(8, 32)])
def test_every_tensor_is_decoded_as_it_was_given(
    case: Case, one: Scheme | None, tmp_path: Path
) -> None:
    model = rounded(case.model, one)
    written = export(model, tmp_path)
    entries = manifest(model, written)
    found = EXACT.decode(tmp_path, entries)
    assert {n: found.quantized[n].digest(n) for n in found.quantized} == {
        n: tensor.digest(n) for n, tensor in model.quantized.items()
    }
    assert found.floats.keys() | found.quantized.keys() == set(model.weights)
    for name, values in found.floats.items():
        assert (values == model.dense(name) + np.float32(written.shifted.get(name, 0))).all(), name


def test_factors_of_a_products_input_are_refused(tmp_path: Path) -> None:
    model = rounded(make(tmp_path / "source", *CONFIGS["llama"]).model)
    name = "model.layers.0.mlp.up_proj.weight"
    tensor = replace(model.quantized[name], inputs=np.ones(64, np.float32))
    with pytest.raises(UnsupportedError, match=r"up_proj.*inputs take factors"):
        export(replace(model, quantized={**model.quantized, name: tensor}), tmp_path / "out")


def test_the_same_model_gives_the_same_bytes(case: Case, tmp_path: Path) -> None:
    model = rounded(case.model)
    for name in ("a", "b"):
        export(model, tmp_path / name)
    for file in (storage.GRAPH, storage.DATA):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_large_tensors_begin_on_a_page(tmp_path: Path) -> None:
    case = make(tmp_path / "source", *CONFIGS["llama"])
    export(rounded(case.model), tmp_path / "out")
    graph = onnx.load(tmp_path / "out" / storage.GRAPH, load_external_data=False).graph
    places = [{e.key: e.value for e in t.external_data} for t in graph.initializer]
    offsets = [int(place["offset"]) for place in places if place]
    assert len(offsets) > 20
    assert all(offset % storage.ALIGNMENT == 0 for offset in offsets)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "mamba"}, "architecture 'mamba'"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope"),
        ({"num_hidden_layers": 2}, "tensor 'model.layers.2.input_layernorm.weight' has no place"),
        ({"num_hidden_layers": 4}, "no tensor 'model.layers.3.input_layernorm.weight'"),
    ],
)
def test_what_it_does_not_draw_is_refused_with_the_reason(
    change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    model = make(tmp_path, *CONFIGS["llama"]).model
    assert decoders.refusal(model) == ""
    assert reason in decoders.refusal(with_config(model, **change))
