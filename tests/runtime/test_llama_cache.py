"""Attention's keys and values in 8 bits, where a bundle asks llama.cpp for it."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgecompile.backends.gguf import Gguf
from edgecompile.plan import Request, plan
from edgecompile.runtime import Session, load
from edgecompile.runtime.llama_engine import LlamaEngine
from edgecompile.sources.huggingface import describe
from tests import tiny
from tests.runtime import makers

IDS = [3 + at % 200 for at in range(600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two heads of 32, one of keys."""
    changes = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048}
    return tiny.llama(tmp_path_factory.mktemp("models") / "tiny", **changes)


def opened(folder: Path, out: Path, backend: Gguf) -> Session:
    (out / "model").mkdir(parents=True)
    export = backend.export(describe(folder, "tiny"), out / "model", lambda *_: None)
    makers.write_tokenizer(out)
    engine = {
        "name": export.engine, "file": f"model/{export.file}", "options": dict(export.options)
    }  # fmt: skip
    about = makers.manifest("text-generation", engine, generation=makers.generation())
    return load(makers.seal(out, about), threads=1)


def logits(session: Session) -> np.ndarray:
    return np.concatenate([chunk.copy() for chunk in session.logits(IDS)])


def state_bytes(session: Session) -> int:
    """Of a context that has seen the text: what its cache holds, mostly."""
    engine = session._need()
    assert isinstance(engine, LlamaEngine)
    with engine.decoder(len(IDS)) as decoder:
        decoder.feed(IDS)
        return int(engine._library.llama_state_get_size(decoder._context))


def test_the_cache_takes_half_the_bytes_and_changes_logits_little(
    folder: Path, tmp_path: Path
) -> None:
    whole, small = (
        opened(folder, tmp_path / str(bits), Gguf(kv_cache_bits=bits)) for bits in (16, 8)
    )
    exact, found = logits(whole), logits(small)
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 1e-5 < error < 0.02
    sizes = [state_bytes(session) for session in (whole, small)]
    cache = len(IDS) * 2 * 2 * 32  # values: layers, keys and values, one head of 32
    assert sizes[0] - sizes[1] == pytest.approx(cache * (2 - 34 / 32), rel=0.02)


def test_only_a_bundle_that_asks_for_it_says_so(folder: Path, tmp_path: Path) -> None:
    model = describe(folder, "tiny")
    for bits in (8, 16):
        (tmp_path / str(bits)).mkdir()
        backend = Gguf(kv_cache_bits=bits)  # type: ignore[arg-type]
        export = backend.export(model, tmp_path / str(bits), lambda *_: None)
        assert export.options.get("kv_cache_bits") == (8 if bits == 8 else None)


def test_set_changes_a_targets_options(folder: Path, tmp_path: Path) -> None:
    settings = ("target.options.kv_cache_bits=8", "quantize.bits=8")
    (one,) = plan(Request(str(folder), ("gguf",), tmp_path / "out", settings=settings)).targets
    assert one.backend.kv_cache_bits == 8  # type: ignore[attr-defined]
    assert one.target.options == {"kv_cache_bits": 8}


def test_heads_that_do_not_divide_into_blocks_are_refused(tmp_path: Path) -> None:
    model = describe(tiny.llama(tmp_path), "narrow")
    assert "heads of 16 do not divide" in Gguf(kv_cache_bits=8).refusal(model)


def test_an_encoder_keeps_no_cache(tmp_path: Path) -> None:
    model = describe(tiny.bert(tmp_path), "bert")
    assert "bert keeps no keys and values" in Gguf(kv_cache_bits=8).refusal(model)
