"""Our own .pte decoders compute what transformers computes, and hold the codes chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecompile import bundle, facts
from edgecompile.backends import Decoded, Export
from edgecompile.backends.executorch import Executorch
from edgecompile.backends.executorch_graph.pte_read import PteReader
from edgecompile.backends.executorch_graph.scope import FILE
from edgecompile.errors import BadInputError, UnsupportedError
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from tests.backends.test_onnx_decoders import (
    CONFIGS,
    PROMPT,
    Case,
    answer_on_codes,
    make,
    rounded,
)
from tests.runtime.executorch_files import opened

BACKEND = Executorch()
TIED = "model.embed_tokens.weight"


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def export(model: Model, folder: Path, backend: Executorch = BACKEND) -> Export:
    folder.mkdir(exist_ok=True)
    return backend.export(model, folder, quiet)


def decoded(folder: Path, model: Model, written: Export) -> Decoded:
    manifest: Mapping[str, Any] = {
        "tensors": bundle.tensor_entries(model, written),
        "floats": bundle.float_entries(model, written),
        "engine": {"options": dict(written.options)},
    }
    return BACKEND.decode(folder, manifest)


def answers(folder: Path, model: Model, written: Export) -> NDArray[np.float32]:
    with opened(folder, model, written).decoder(len(PROMPT)) as decoder:
        return np.concatenate([np.array(chunk) for chunk in decoder.feed_all(PROMPT)])


CAPPED = ("gemma2",)


@pytest.fixture(scope="module", params=[kind for kind in CONFIGS if kind not in CAPPED])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    kind, changes = CONFIGS[request.param]
    return make(tmp_path_factory.mktemp("source"), kind, changes)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Model:
    kind, changes = CONFIGS["llama-tied"]
    return rounded(make(tmp_path_factory.mktemp("tied"), kind, changes).model)


def test_float_logits_are_those_of_transformers(case: Case, tmp_path: Path) -> None:
    written = export(case.model, tmp_path)
    assert answers(tmp_path, case.model, written) == pytest.approx(case.expected, abs=2e-3)


def test_the_file_holds_the_codes_floats_and_numbers_of_the_model(
    case: Case, tmp_path: Path
) -> None:
    model = rounded(case.model)
    written = export(model, tmp_path)
    found = decoded(tmp_path, model, written)
    for name in model.quantized:
        assert found.quantized[name].digest(name) == model.quantized[name].digest(name), name
    assert found.quantized.keys() | found.floats.keys() == set(model.weights)
    for name in found.floats:
        expected_values = model.dense(name) + np.float32(written.shifted.get(name, 0))
        assert (found.floats[name] == expected_values).all(), name
    expected = facts.of_config(model.config)
    assert found.facts == pytest.approx({n: expected[n] for n in found.facts}, rel=1e-6)


def test_logits_on_codes_are_near_those_of_torch_on_the_same_codes(
    case: Case, tmp_path: Path
) -> None:
    model = rounded(case.model)
    found = answers(tmp_path, model, export(model, tmp_path))
    expected = answer_on_codes(case, model)
    products = (found * expected).sum(1)
    cosines = products / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert np.median(cosines) > 0.99  # rows of int8 activations, weights made to matter


@pytest.mark.parametrize("kind", CAPPED)
def test_a_cap_on_scores_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    model = make(tmp_path, *CONFIGS[kind]).model
    assert "attn_logit_softcapping is 2.0" in BACKEND.refusal(model)


@pytest.mark.parametrize("kind", ["llama-tied", "gemma3-window"])
def test_tokens_one_by_one_give_what_they_give_together(kind: str, tmp_path: Path) -> None:
    kind, changes = CONFIGS[kind]
    one = make(tmp_path / "m", kind, changes)
    written = export(one.model, tmp_path / "out")
    engine = opened(tmp_path / "out", one.model, written)
    with engine.decoder(len(PROMPT)) as decoder:
        found = [np.array(decoder.feed([token])) for token in PROMPT]
    assert np.stack(found) == pytest.approx(one.expected, abs=2e-3)


def test_the_same_model_gives_the_same_bytes(tied: Model, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export(tied, tmp_path / name)
    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "two" / FILE).read_bytes()


def test_a_tied_head_of_8_bits_is_stored_once(tied: Model, tmp_path: Path) -> None:
    export(tied, tmp_path)
    reader = PteReader(tmp_path / FILE)
    key = next(key for key in reader.named if key.startswith(f"{TIED}.codes#"))
    head = reader.program.segments[reader.named[key]]
    constants = reader.program.constant_segment.offsets
    assert head.offset in constants
    codes = tied.quantized[TIED].codes
    assert (tmp_path / FILE).read_bytes().count(codes[:8].tobytes()) == 1


@pytest.mark.parametrize("group", [32, 0])
def test_a_tied_head_of_4_bits_is_stored_once(tied: Model, tmp_path: Path, group: int) -> None:
    model = rounded(tied, Scheme(4, group))
    written = export(model, tmp_path)
    found = decoded(tmp_path, model, written).quantized[TIED]
    assert found.digest(TIED) == model.quantized[TIED].digest(TIED)
    places = {e.place for e in BACKEND.extents(tmp_path) if e.name.startswith(f"{TIED}.codes")}
    assert len(places) == 1


@pytest.mark.parametrize("kind", ["llama-tied", "gemma3-window"])  # the latter scales its rows too
def test_a_tied_table_of_4_bits_gives_rows_and_logits(kind: str, tmp_path: Path) -> None:
    kind, changes = CONFIGS[kind]
    case = make(tmp_path / "m", kind, changes)
    only = {TIED: rounded(case.model, Scheme(4, 32)).quantized[TIED]}
    model = replace(case.model, quantized=only)
    found = answers(tmp_path / "out", model, export(model, tmp_path / "out"))
    expected = answer_on_codes(case, model)
    products = (found * expected).sum(1)
    cosines = products / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.999  # the head's input is int8; all else is float32


def test_a_changed_bit_of_a_tied_table_of_4_bits_is_seen(tied: Model, tmp_path: Path) -> None:
    model = rounded(tied, Scheme(4, 32))
    written = export(model, tmp_path)
    flip(tmp_path / FILE, f"{TIED}.codes#")
    found = decoded(tmp_path, model, written).quantized[TIED]
    assert found.digest(TIED) != model.quantized[TIED].digest(TIED)


def flip(file: Path, start: str) -> None:
    """Change one bit of the named data whose key begins so."""
    reader = PteReader(file)
    key = next(key for key in reader.named if key.startswith(start))
    place = reader.program.segments[reader.named[key]].offset + reader.base
    data = bytearray(file.read_bytes())
    data[place + 3] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("what", ["codes", "scales"])
def test_one_changed_bit_is_seen(tied: Model, tmp_path: Path, what: str) -> None:
    written = export(tied, tmp_path)
    start = "model.layers.1.mlp.gate_proj.weight|model.layers.1.mlp.up_proj.weight"
    flip(tmp_path / FILE, f"{start}.{what}#")
    found = decoded(tmp_path, tied, written).quantized
    wrong = [n for n in found if found[n].digest(n) != tied.quantized[n].digest(n)]
    assert wrong == ["model.layers.1.mlp.gate_proj.weight"]


def test_8_bits_in_groups_are_refused_with_the_way_out(tied: Model, tmp_path: Path) -> None:
    model = rounded(tied, Scheme(8, 32))
    schemes = dict.fromkeys(model.quantized, Scheme(8, 32))
    with pytest.raises(UnsupportedError, match=r"int8-g32; XNNPACK has groups for 4 bits only"):
        BACKEND.size(model, schemes)
    with pytest.raises(UnsupportedError, match="bits = 4 or 8"):
        export(model, tmp_path)


@pytest.mark.parametrize("wider", [0, 1])
def test_the_comparison_sees_a_window_that_is_one_wider(tmp_path: Path, wider: int) -> None:
    case = make(tmp_path / "m", *CONFIGS["mistral-window"])
    window = case.model.config["sliding_window"] + wider
    model = replace(case.model, config={**case.model.config, "sliding_window": window})
    found = answers(tmp_path / "out", model, export(model, tmp_path / "out"))
    assert (np.abs(found - case.expected).max() > 1e-2) == bool(wider)


def test_the_context_is_at_most_the_models_own(tied: Model, tmp_path: Path) -> None:
    assert export(tied, tmp_path / "a").options["context_length"] == 512
    short = export(tied, tmp_path / "b", Executorch(context_length=64))
    assert short.options["context_length"] == 64


def test_a_cut_file_is_bad_input(tied: Model, tmp_path: Path) -> None:
    written = export(tied, tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInputError, match="all of its segments"):
        decoded(tmp_path, tied, written)


def test_the_size_is_known_within_ten_percent(tmp_path: Path) -> None:
    changes = {"hidden_size": 256, "intermediate_size": 512, "num_key_value_heads": 4}
    model = rounded(make(tmp_path / "m", "llama", changes).model)
    export(model, tmp_path / "out")
    schemes = {name: model.quantized[name].scheme for name in model.quantized}
    written = (tmp_path / "out" / FILE).stat().st_size
    assert BACKEND.size(model, schemes) == pytest.approx(written, rel=0.1)


def test_another_source_epsilon_is_a_differing_fact(tied: Model, tmp_path: Path) -> None:
    other = replace(tied, config={**tied.config, "rms_norm_eps": 1e-5})
    found = decoded(tmp_path, other, export(other, tmp_path))
    assert found.facts["norm_eps"] == pytest.approx(1e-5)
