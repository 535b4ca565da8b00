"""Real bundles of MiniLM for llama.cpp: sound ones pass, and every planted fault is seen."""
from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompile import bundle, sources, target
from edgecompile.backends.gguf import Gguf
from edgecompile.check import CheckReport, Limits, check_bundle
from edgecompile.checks import costs, sealed, tokens
from edgecompile.errors import BadInputError
from edgecompile.model import Model
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import QuantizedTensor, Scheme
from edgecompile.passes import PassResult
from edgecompile.passes.quantize_rtn import QuantizeRtn
from edgecompile.recipe import PassChoice
from edgecompile.runtime.manifest import read_manifest
from edgecompile.runtime.worker_client import Worker
from edgecompile.text import Corpus, default_corpus
from edgecompile.text.source_tokens import FolderTokens
from tests.tiny import work

FEW = Limits(texts=100, fidelity_texts=8, repeats=3, threads=2)
LAYER = "encoder.layer.2.output.dense.weight"
OTHER = "encoder.layer.3.output.dense.weight"

Change = Callable[[Model], Model]


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def source(minilm_folder: Path) -> Model:
    return sources.load(sources.resolve(str(minilm_folder)), quiet)


@pytest.fixture(scope="module")
def rounded(source: Model, tmp_path_factory: pytest.TempPathFactory) -> PassResult:
    return QuantizeRtn(bits=8)(source, work(tmp_path_factory.mktemp("codes")))


@pytest.fixture(scope="module")
def corpus(cache_folder: Path) -> Corpus:
    return default_corpus()


def seal(
    model: Model, result: PassResult, folder: Path, ship: Callable[[Path], None] | None = None
) -> Path:
    """A bundle of `model` whose hashes agree; `ship` may change it before it is hashed."""
    files, out = folder / "files", folder / "bundle"
    files.mkdir()
    out.mkdir()
    export = Gguf().export(model, files, quiet)
    choice = PassChoice("quantize", "quantize_rtn", {"bits": 8})
    contents = bundle.Contents(model, target.find("gguf"), "", export, ((choice, result),))
    bundle.assemble(contents, files, out)
    if ship:
        ship(out)
        manifest = json.loads((out / "manifest.json").read_text("utf-8"))
        bundle.write_manifest(out, manifest)
    return out


def with_codes(model: Model, changed: Mapping[str, QuantizedTensor]) -> Model:
    return dataclasses.replace(model, quantized={**model.quantized, **changed})


def failing(report: CheckReport) -> dict[str, str]:
    return {row.metric: row.detail for row in report.rows if row.verdict == "fail"}


@pytest.fixture(scope="module")
def sound(rounded: PassResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seal(rounded.model, rounded, tmp_path_factory.mktemp("sound"))


@pytest.fixture(scope="module")
def report(sound: Path, source: Model, corpus: Corpus) -> CheckReport:
    return check_bundle(sound, source, corpus, FEW, quiet)


def step_0(bundle: Path, model: Model) -> dict[str, str]:
    """What fails in the comparison of the sealed bytes alone."""
    manifest = read_manifest(bundle).data
    decoded = sealed.decode(bundle, manifest)
    rows = sealed.rows(decoded, manifest, model, model.quantized)
    return {row.metric: row.detail for row in rows if row.verdict == "fail"}


def test_a_sound_bundle_passes_every_limit(report: CheckReport) -> None:
    assert report.verdict == "pass", failing(report)
    assert report.accepted
    assert report.width == "int8"
    assert report.proven_on["device"] == "real"
    measured = {row.metric for row in report.rows}
    assert {"cosine_p1", "rank_correlation", "export_cosine_min", "latency", "size"} <= measured
    assert {"load_time", "peak_memory", "tokenizer_differences", "group_error"} <= measured


def test_a_report_holds_no_text_of_the_user(report: CheckReport, corpus: Corpus) -> None:
    written = json.dumps(report.to_json())
    assert not any(document.text[:40] in written for document in corpus.held_out)


def test_without_a_source_a_bundle_stays_unproven(sound: Path, corpus: Corpus) -> None:
    report = check_bundle(sound, None, corpus, FEW, quiet)
    assert report.verdict == "unproven"
    missing = {row.metric for row in report.rows if row.verdict == "unproven"}
    assert {"cosine_mean", "tokenizer_differences"} <= missing


def test_another_source_is_bad_input(sound: Path, source: Model, corpus: Corpus) -> None:
    other = dataclasses.replace(source, source=dataclasses.replace(source.source, digest="0" * 64))
    with pytest.raises(BadInputError, match="built from"):
        check_bundle(sound, other, corpus, FEW, quiet)


def test_one_flipped_bit_is_bad_input(
    rounded: PassResult, source: Model, corpus: Corpus, tmp_path: Path
) -> None:
    damaged = seal(rounded.model, rounded, tmp_path)
    file = damaged / "model" / "model.gguf"
    data = bytearray(file.read_bytes())
    data[-1000] ^= 1
    file.write_bytes(data)
    with pytest.raises(BadInputError, match="SHA-256"):
        check_bundle(damaged, source, corpus, FEW, quiet)


def doubled_scale(model: Model) -> Model:
    tensor = model.quantized[LAYER]
    scales = tensor.scales.copy()
    scales[7] *= 2
    return with_codes(model, {LAYER: dataclasses.replace(tensor, scales=scales)})


def swapped_layers(model: Model) -> Model:
    return with_codes(
        model, {LAYER: model.quantized[OTHER], OTHER: model.quantized[LAYER]}
    )  # fmt: skip


def two_bits(model: Model) -> Model:
    """The layer rounded to four levels, stored on the 8-bit grid."""
    coarse = quantize(model.weights.float32(LAYER), Scheme(2, 0))
    codes = (coarse.codes.astype(np.int16) * 63).clip(-127, 127).astype(np.int8)
    scales = (coarse.scales * coarse.scheme.high / 63).astype(np.float32)
    scales = np.ldexp(np.rint(np.frexp(scales)[0] * 256) / 256, np.frexp(scales)[1])
    tensor = QuantizedTensor(Scheme(8, 0), codes, scales.astype(np.float32))
    return with_codes(model, {LAYER: tensor})


@pytest.mark.parametrize("plant", [doubled_scale, swapped_layers, two_bits])
def test_wrong_codes_in_the_file_are_named_by_tensor(
    plant: Change, rounded: PassResult, tmp_path: Path
) -> None:
    """The manifest says what the quantize stage chose, the file holds something else."""
    right = seal(rounded.model, rounded, tmp_path)
    wrong_folder = tmp_path / "wrong"
    wrong_folder.mkdir()
    Gguf().export(plant(rounded.model), wrong_folder, quiet)
    (wrong_folder / "model.gguf").replace(right / "model" / "model.gguf")
    bundle.write_manifest(right, json.loads((right / "manifest.json").read_text("utf-8")))
    assert LAYER in step_0(right, rounded.model)["codes_differing"]


@pytest.mark.parametrize("plant", [doubled_scale, swapped_layers, two_bits])
def test_wrong_codes_that_the_manifest_agrees_with_are_still_seen(
    plant: Change, rounded: PassResult, source: Model, tmp_path: Path
) -> None:
    """The quantize stage itself was wrong: only the source's weights and answers can tell."""
    found = step_0(seal(plant(rounded.model), rounded, tmp_path), source)
    assert list(found) == ["group_error"]
    assert found["group_error"] in (LAYER, OTHER)


def test_swapped_layers_break_the_answers_too(
    rounded: PassResult, source: Model, corpus: Corpus, tmp_path: Path
) -> None:
    wrong = seal(swapped_layers(rounded.model), rounded, tmp_path)
    report = check_bundle(wrong, source, corpus, FEW, quiet)
    assert not report.accepted
    assert {"cosine_mean", "cosine_p1", "rank_correlation"} <= failing(report).keys()


def drop(rule: str, value: Any) -> Callable[[Path], None]:
    """Change one rule of the shipped tokenizer's normalizer."""

    def ship(out: Path) -> None:
        file = out / "tokenizer" / "tokenizer.json"
        settings = json.loads(file.read_text("utf-8"))
        settings["normalizer"][rule] = value
        file.write_text(json.dumps(settings), "utf-8")

    return ship


@pytest.mark.parametrize(
    ("rule", "value"),
    [("lowercase", False), ("strip_accents", False), ("handle_chinese_chars", False),
     ("clean_text", False)],
)  # fmt: skip
def test_a_dropped_tokenizer_rule_fails(
    rule: str, value: Any, rounded: PassResult, source: Model, tmp_path: Path
) -> None:
    wrong = seal(rounded.model, rounded, tmp_path, drop(rule, value))
    with Worker(wrong) as worker:
        rows = list(tokens.rows(worker, FolderTokens(source, 256), ["Plain words."]))
    assert [row.verdict for row in rows][1] == "fail"


@pytest.mark.parametrize("epsilon", [1e-5, 1.001e-12])
def test_a_changed_epsilon_is_named(
    epsilon: float, rounded: PassResult, source: Model, tmp_path: Path
) -> None:
    config = {**rounded.model.config, "layer_norm_eps": epsilon}
    wrong = seal(dataclasses.replace(rounded.model, config=config), rounded, tmp_path)
    assert "layer_norm_eps" in step_0(wrong, source)["facts_differing"]


def test_a_bundle_no_smaller_than_float16_fails_unless_allowed_by_name(
    source: Model, corpus: Corpus, tmp_path: Path
) -> None:
    plain = seal(source, PassResult(source, ()), tmp_path)
    few = dataclasses.replace(FEW, texts=8)
    report = check_bundle(plain, source, corpus, few, quiet)
    assert list(failing(report)) == ["size_vs_float16"]
    assert report.width == "float"
    allowed = costs.size_rows(read_manifest(plain), {}, ("no-gain",))
    assert [row.verdict for row in allowed] == ["measured", "measured"]


def test_a_stricter_limit_fails_what_the_rule_lets_pass(
    sound: Path, source: Model, corpus: Corpus
) -> None:
    strict = dataclasses.replace(FEW, texts=8, stricter={"cosine_mean": 0.99999, "size": 1.0})
    report = check_bundle(sound, source, corpus, strict, quiet)
    assert {"cosine_mean", "size"} <= failing(report).keys()
