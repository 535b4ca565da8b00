"""T5 from end to end: built, checked, and its answers beside transformers'."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecompile import bundle, registry, sources, target
from edgecompile.check import Limits, check_bundle
from edgecompile.checks.text2text import pairs
from edgecompile.errors import UnsupportedError, UsageError
from edgecompile.graphs import part_of
from edgecompile.model import Model
from edgecompile.passes.quantize_gptq import QuantizeGptq
from edgecompile.passes.quantize_rtn import QuantizeRtn
from edgecompile.recipe import PassChoice
from edgecompile.reference import Reference
from edgecompile.runtime import Session, load
from edgecompile.structure import roles
from edgecompile.text.source_tokens import FolderTokens
from tests import tiny

FEW = Limits(
    tokens=1024, window=128, fidelity_tokens=128, repeats=3, new_tokens=8, threads=2,
    allow=("no-gain",),
)  # fmt: skip
TEXT = "the quick brown fox jumps over the lazy dog"
SHARED = "shared.weight"


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def opened(folder: Path) -> Model:
    return sources.load(sources.resolve(str(folder)), quiet)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return opened(tiny.t5(tmp_path_factory.mktemp("t5") / "m", num_decoder_layers=2))


@pytest.fixture(scope="module")
def sealed(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed")
    result = QuantizeRtn(bits=8)(model, tiny.work(folder / "codes"))
    files, out, device = folder / "files", folder / "bundle", target.find("cpu")
    files.mkdir()
    out.mkdir()
    export = registry.create("backends", "onnxruntime", {}, "test").export(
        result.model, files, quiet
    )
    passes = ((PassChoice("quantize", "quantize_rtn", {"bits": 8}), result),)
    bundle.assemble(bundle.Contents(result.model, device, "", export, passes), files, out)
    return out


@pytest.fixture
def session(sealed: Path) -> Iterator[Session]:
    with load(sealed, threads=2) as one:
        yield one


def codes_in_torch(model: Model, folder: Path) -> Reference:
    """transformers' model with the weights that the bundle's codes stand for."""
    coded = QuantizeRtn(bits=8)(model, tiny.work(folder)).model
    reference = Reference(model)
    for name, tensor in coded.quantized.items():
        parameter = reference.body.get_parameter(name)
        parameter.data = torch.from_numpy(tensor.dequantize())
    return reference


def test_the_tied_embedding_is_a_table_and_the_bias_by_distance_stays_floats(model: Model) -> None:
    found = roles(model)
    assert found[SHARED] == "embedding"
    bias = [name for name in found if "relative_attention_bias" in name]
    assert {name: found[name] for name in bias} == dict.fromkeys(bias, "other")
    assert len(bias) == 2


def test_each_tensor_is_in_one_graph_and_the_embedding_in_both(model: Model) -> None:
    encoder, decoder = (part_of(model, name).weights for name in ("encoder", "decoder"))
    assert set(encoder) & set(decoder) == {SHARED}
    assert set(encoder) | set(decoder) == set(model.weights)


def test_a_head_of_its_own_is_kept(tmp_path: Path) -> None:
    folder = tiny.t5(tmp_path / "m", feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    from safetensors.numpy import load_file, save_file

    arrays = load_file(folder / "model.safetensors")
    arrays["lm_head.weight"] = arrays[SHARED][::-1].copy()
    arrays["encoder.embed_tokens.weight"] = arrays[SHARED].copy()
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    loaded = opened(folder)
    assert "lm_head.weight" in loaded.weights
    assert "encoder.embed_tokens.weight" not in loaded.weights
    body = Reference(loaded).body
    assert not torch.equal(body.lm_head.weight, body.shared.weight)
    assert torch.equal(body.encoder.embed_tokens.weight, body.shared.weight)


def test_the_check_passes(sealed: Path, model: Model) -> None:
    report = check_bundle(sealed, model, tiny.corpus(200), FEW, quiet)
    verdicts = {row.metric: row.verdict for row in report.rows}
    assert report.verdict == "pass", tiny.not_passed(report)
    assert (verdicts["kl_mean"], verdicts["export_kl_mean"]) == ("pass", "pass")
    assert [one.stage for one in report.stages] == ["quantized", "graph", "runtime"]
    assert 0 < report.stages[0].value < 0.0138


def test_the_embedding_lies_in_one_place_for_both_graphs(sealed: Path) -> None:
    import onnx

    places = [
        {entry.key: entry.value for entry in tensor.external_data}
        for name in ("encoder", "decoder")
        for tensor in onnx.load(
            str(sealed / "model" / f"{name}.onnx"), load_external_data=False
        ).graph.initializer
        if tensor.name == f"{SHARED}.codes"
    ]  # fmt: skip
    assert len(places) == 2
    assert places[0] == places[1]


def test_greedy_answers_are_those_of_transformers(
    session: Session, model: Model, tmp_path: Path
) -> None:
    ids = session.tokenize([TEXT])[0]
    source = codes_in_torch(model, tmp_path)
    with torch.inference_mode():
        right = source.body.generate(
            torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=None
        )  # fmt: skip
    found = list(session.generate_ids(ids, 12))
    others = [list(session.generate_ids(ids[: len(ids) // n], 12)) for n in (2, 3, 4)]
    assert any(other != found for other in others)  # the source has a say
    near = [np.sort(row)[-1] - np.sort(row)[-2] for row in source.answer_logits(ids, right[0])]
    same = next((i for i, (a, b) in enumerate(zip(found, right[0, 1:].tolist(), strict=True))
                 if a != b), 12)  # fmt: skip
    assert same == 12 or near[same] < 0.05  # int8 activations may swap two that are as likely


def test_translate_gives_a_whole_answer_a_text(session: Session) -> None:
    pieces = list(session.generate(TEXT, max_new_tokens=9))
    assert "".join(pieces)
    assert session.translate([TEXT, TEXT], max_new_tokens=9) == ["".join(pieces)] * 2


def test_a_seed_gives_the_same_sample_again(session: Session) -> None:
    one, two = (
        session.translate([TEXT], max_new_tokens=9, temperature=1.0, seed=3) for _ in range(2)
    )
    assert one == two


def test_a_token_at_a_time_gives_the_logits_of_all_at_once(session: Session) -> None:
    ids = session.tokenize([TEXT])[0]
    answer = [0, 5, 9, 7, 11]
    whole = np.concatenate([np.array(part) for part in session.logits(answer, ids)])
    single = [logits.copy() for _, logits in session.greedy(ids, 1)]
    assert np.abs(whole[0] - single[0]).max() < 1e-4


def test_a_source_longer_than_the_context_is_refused(session: Session) -> None:
    with pytest.raises(UsageError, match="256"):
        session.translate(["fox " * 300])


def test_a_pair_is_a_text_cut_in_half_with_what_the_tokenizer_ends_it_with(model: Model) -> None:
    tokens = FolderTokens(model, 0)
    one = pairs(tokens, ["the quick brown fox"], 100, 10, 0)[0]
    assert one.source == tokens.encode(["the quick"])[0]
    assert one.answer.tolist() == [0, *tokens.encode(["brown fox"])[0]]
    cut = pairs(tokens, [TEXT * 9], 12, 10, 0)[0]
    assert (len(cut.source), cut.source[-1], len(cut.answer)) == (12, 1, 12)


def test_a_calibrated_method_says_what_to_take_instead(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"quantize.method=rtn"):
        QuantizeGptq()(model, tiny.work(tmp_path, tiny.corpus()))


