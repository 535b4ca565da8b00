"""Each cell of docs/architectures.md: a small model's answers in the engine are transformers'."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgecompile import bundle, sources
from edgecompile.backends import Export
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model
from edgecompile.reference import Reference
from edgecompile.runtime import seq2seq
from edgecompile.runtime.batching import look_all
from edgecompile.runtime.engine import Engine as Opened
from edgecompile.runtime.engine import open_engine
from edgecompile.runtime.manifest import Engine, GenerationInfo, Manifest
from edgecompile.tasks import HALVES, generates
from edgecompile.text.sounds import made_up
from tests import tiny
from tests.architectures.cells import (
    BACKENDS,
    DECODER,
    FILLER,
    IMAGE_TEXT,
    KINDS,
    PAGE,
    PICTURES,
    RANKER,
    SLOW,
    SPEECH,
    TAGGER,
    TEXT_TO_TEXT,
    Kind,
    make,
    page,
    refusal,
)
from tests.backends.codes import rounded

TEXTS = [[2, 10, 11, 12, 13, 14, 20, 21, 22, 23, 24, 3], [2, 20, 3]]
TYPES = [[0] * 7 + [1] * 5, [0, 0, 1]]
WINDOW = [0, *range(5, 190, 7)]
SOUND = made_up(3, tiny.SOUND_SECONDS)
HEARD = [*range(321, 326), *(4 + 3 * i % 300 for i in range(36))]
SOURCE = [*(5 + 7 * i % 50 for i in range(60)), 1]
ANSWER = [0, *(4 + 3 * i % 50 for i in range(40))]
NEAR, LLAMA_CPP = 1e-4, {"embedding": 1e-3, DECODER: 1e-2}  # its KV cache is float16
EXACT = ("onnxruntime", "openvino")  # products with codes, activations in float32


def slow(kind: Kind, task: str, backend: str) -> bool:
    """Minutes of ExecuTorch's own exporter, or seconds of another for what is like another's."""
    heads = task not in ("embedding", DECODER, PICTURES, TEXT_TO_TEXT, SPEECH, IMAGE_TEXT)
    like_bert = heads and kind.model_type != "bert" and backend in EXACT
    like_t5 = task == TEXT_TO_TEXT and bool(kind.config) and backend in EXACT
    return like_bert or like_t5 or (kind.model_type, backend) in SLOW


CELLS = [
    pytest.param(
        kind, task, backend, id=f"{kind.name.lower()}-{task}-{backend}".replace(" ", "-"),
        marks=[pytest.mark.slow] if slow(kind, task, backend) else [],
    )
    for kind in KINDS for task in kind.tasks for backend in BACKENDS
]  # fmt: skip


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def opened(folder: Path, model: Model, written: Export) -> Opened:
    """The engine on `folder`'s file, as a manifest of that export asks for it."""
    ports: dict[str, Any] = {
        "inputs": [asdict(port) for port in written.inputs],
        "outputs": [asdict(port) for port in written.outputs],
    }
    engine = Engine(
        written.engine, written.requires, written.tested, written.file, dict(written.options),
        dict(written.graphs),
    )
    start = 0 if model.task in HALVES else None
    generation = GenerationInfo(256, (), {}, start) if generates(model.task) else None
    manifest = Manifest(
        ports, "", model.name, model.task, (), engine, None, None, generation, ()
    )  # fmt: skip
    return open_engine(folder, manifest, 2, int(model.config.get("pad_token_id") or 0))


def pixels() -> NDArray[np.float32]:
    """Two pictures of noise."""
    return np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)


def source(model: Model) -> tuple[Any, list[int]]:
    """What an encoder-decoder is given, and an answer."""
    if model.task != SPEECH:
        return SOURCE, ANSWER
    assert model.audio is not None
    return model.audio.prepare([SOUND])[0], HEARD


def answers(engine: Opened, model: Model) -> NDArray[np.float32]:
    if model.task in (PICTURES, IMAGE_TEXT):
        seen = np.concatenate([look_all(engine, one[None], 1) for one in pixels()])
        return seen if model.task == PICTURES else np.concatenate([*engine.encode(TEXTS), *seen])
    if not generates(model.task):
        found = engine.encode(TEXTS, TYPES if model.task == RANKER else None)
        if model.task in (TAGGER, FILLER):
            return np.concatenate([row[: len(ids)] for row, ids in zip(found, TEXTS, strict=True)])
        rows = np.stack(list(found))
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / length if model.task == "embedding" else rows
    with engine.decoder(len(WINDOW)) as decoder:
        if model.task in HALVES:
            seq2seq.begin(decoder, *source(model)[:1])
            parts = (np.array(part) for at in (slice(1), slice(1, 9), slice(9, None))
                     for part in decoder.feed_all(source(model)[1][at]))  # fmt: skip
            return np.concatenate(list(parts))
        return np.concatenate([np.array(chunk) for chunk in decoder.feed_all(WINDOW)])


def expected(model: Model) -> NDArray[np.float32]:
    reference = Reference(model)
    for norm in reference.body.modules():
        if EPSILON in model.config and isinstance(norm, torch.nn.LayerNorm):
            norm.eps = model.config[EPSILON]
    with reference.quantized(model.quantized, model.replaced):
        if model.task == PICTURES:
            return reference.look(pixels())
        if model.task == IMAGE_TEXT:
            return features(reference)
        if model.task in HALVES:
            return reference.answer_logits(*source(model))
        if model.task == DECODER:
            return reference.logits(WINDOW)
        rows = reference.rows(TEXTS, TYPES if model.task == RANKER else None)
        return np.concatenate(rows) if model.task in (TAGGER, FILLER) else np.stack(rows)


def features(reference: Reference) -> NDArray[np.float32]:
    """What CLIPModel compares, of each text by itself and of the pictures, in one row."""
    found = []
    with torch.inference_mode():
        for ids in TEXTS:
            given = {"input_ids": torch.tensor([ids]), "pixel_values": torch.from_numpy(pixels())}
            both = reference.body(**given)
            found.append(both.text_embeds.numpy().ravel())
    return np.concatenate([*found, both.image_embeds.numpy().ravel()])


def altered(model: Model) -> Iterator[tuple[str, Model]]:
    """The same model with another epsilon, rope base, order of positions or of heads.

    Each where it has them.
    """
    config = model.config
    if model.task == IMAGE_TEXT:
        yield from altered_towers(model)
        return
    for key in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps"):
        if key in config:
            yield key, replace(model, config={**config, key: config[key] * 4})
    if reach := config.get("relative_attention_max_distance"):
        farther = {**config, "relative_attention_max_distance": 2 * reach}
        yield "reach", replace(model, config=farther)
    if rope := config.get("rope_parameters"):
        yield "rope", replace(model, config={**config, "rope_parameters": faster(rope)})
    if table := next((n for n in model.weights if n.endswith("wpe.weight")), ""):
        yield "positions", replace(model, replaced={table: np.roll(model.dense(table), 1, axis=0)})
    if model.task == SPEECH:
        yield "epsilon", replace(model, config={**config, EPSILON: 4e-5})
        yield "positions", replace(model, replaced=reversed_rows(model, POSITIONS))
    name = next((n for n in model.weights if any(end in n for end in QUERIES)), "")
    if name:  # else no heads: convolutions
        yield "heads", rolled(model, name)


def altered_towers(model: Model) -> Iterator[tuple[str, Model]]:
    """Of texts and of pictures, each by itself."""
    for part in ("text", "vision"):
        own = model.config[f"{part}_config"]
        larger = {**own, "layer_norm_eps": own["layer_norm_eps"] * 4}
        config = {**model.config, f"{part}_config": larger}
        yield f"{part} epsilon", replace(model, config=config)
        query = f"{part}_model.encoder.layers.0.self_attn.q_proj.weight"
        yield f"{part} heads", rolled(model, query)


def rolled(model: Model, name: str) -> Model:
    """The first two heads of a product change places."""
    weight = model.dense(name)
    size = int(model.config.get("head_dim") or 16)
    order = np.arange(len(weight))
    order[: 2 * size] = np.roll(order[: 2 * size], size)
    return replace(model, replaced={name: weight[order]})


EPSILON = "epsilon of torch's norms, which Whisper's config has no word for"
POSITIONS = "model.encoder.embed_positions.weight"


def reversed_rows(model: Model, name: str) -> dict[str, NDArray[np.float32]]:
    return {name: np.ascontiguousarray(model.dense(name)[::-1])}


QUERIES = (
    "q_proj.weight", "qkv_proj.weight", "query.weight", "q_lin.weight", "attn.q.weight",
    "Wqkv.weight", "c_attn.weight", "SelfAttention.q.weight",
)  # fmt: skip


def faster(rope: Mapping[str, Any]) -> dict[str, Any]:
    if "rope_theta" in rope:
        return {**rope, "rope_theta": rope["rope_theta"] / 4}
    return {kind: faster(one) for kind, one in rope.items()}


@pytest.mark.parametrize(("kind", "task", "backend"), CELLS)
def test_a_cell_answers_as_transformers_does_or_says_why_it_cannot(
    kind: Kind, task: str, backend: str, tmp_path: Path
) -> None:
    source = make(kind, task, tmp_path / "model")
    if reason := refusal(source, backend):
        assert f"{backend}: {reason}" in PAGE.read_text("utf-8")
        return
    coded = rounded(source, tmp_path / "codes", 8)
    model = coded if backend in EXACT else source
    written = export(model, backend, tmp_path / "out")
    right, near = expected(model), LLAMA_CPP[task] if backend == "gguf" else NEAR
    if task == PICTURES:  # tens of convolutions one after the other, scores of 6
        near *= float(np.abs(right).max())
    found = answers(opened(tmp_path / "out", model, written), model)
    assert np.abs(found - right).max() < near
    plain = expected(source)
    for name, other in altered(source):
        assert np.abs(expected(other) - plain).max() > 3 * near, name
    folder = tmp_path / "out"
    if backend not in EXACT:  # its activations are int8 where weights have codes
        if backend == "executorch":  # convolutions stay floats there
            coded = rounded(source, tmp_path / "floats", 8, convolutions=False)
        folder = tmp_path / "coded"
        written = export(coded, backend, folder)
    assert not lost(coded, backend, folder, written)


def export(model: Model, backend: str, folder: Path) -> Export:
    folder.mkdir()
    written: Export = BACKENDS[backend].export(model, folder, quiet)
    return written


def lost(model: Model, backend: str, folder: Path, written: Export) -> list[str]:
    """Weights whose codes are not in the file as they were chosen."""
    manifest: Mapping[str, Any] = {
        "tensors": bundle.tensor_entries(model, written),
        "floats": bundle.float_entries(model, written),
        "engine": {"options": dict(written.options), "graphs": dict(written.graphs)},
    }
    found = BACKENDS[backend].decode(folder, manifest).quantized
    chosen = {n: tensor for n, tensor in model.quantized.items() if n not in written.unused}
    return [n for n in chosen if n not in found or found[n].digest(n) != chosen[n].digest(n)]


@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "DetrForObjectDetection"])
def test_a_class_that_no_task_fits_is_unsupported(name: str, tmp_path: Path) -> None:
    folder = tiny.bert(tmp_path / "m")
    (folder / "modules.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
    with pytest.raises(UnsupportedError, match=name):
        sources.describe(sources.resolve(str(folder)))


def test_the_page_is_what_the_backends_say() -> None:
    assert PAGE.read_text("utf-8") == page()
