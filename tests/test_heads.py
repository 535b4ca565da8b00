"""Token labels, masked words and pair scores: tiny bundles end to end in ONNX Runtime."""
from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from edgecompile import bundle, golden, registry, sources, target
from edgecompile.check import Limits, check_bundle
from edgecompile.checks.heads import pairs_of, truth_tags, word_tags
from edgecompile.errors import BadInputError, UnsupportedError, UsageError
from edgecompile.model import Model
from edgecompile.reference import Reference
from edgecompile.runtime import Session, load
from edgecompile.runtime.tokens import Encoded
from edgecompile.sources.heads import ranking_activation
from edgecompile.text import Corpus, Document
from edgecompile.text.files import read_documents
from tests import tiny

FEW = Limits(texts=120, tokens=800, fidelity_tokens=100, repeats=2, threads=1, allow=("no-gain",))
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
SIZES = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128, "initializer_range": 0.3,
}  # fmt: skip
TEXT = "The quick brown fox"
PAIR = ("the quick fox", "lazy dog jumps over")


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def source(folder: Path, kind: str, **changes: object) -> Model:
    """A seeded BERT with that head, its task found from the config."""
    torch.manual_seed(4)
    size = tiny.word_piece(folder)
    config = transformers.BertConfig(vocab_size=size, **SIZES, **changes)
    getattr(transformers, kind)(config).save_pretrained(folder)
    tiny.card(folder)
    return sources.load(sources.resolve(str(folder)), quiet)


def sealed(model: Model, out: Path) -> Path:
    """A sealed bundle of the model's floats for ONNX Runtime."""
    device = target.find("cpu")
    (out / "files").mkdir(parents=True)
    (out / "bundle").mkdir()
    export = registry.create("backends", device.backend, {}, "test").export(
        model, out / "files", quiet
    )
    contents = bundle.Contents(model, device, "", export, ())
    bundle.assemble(contents, out / "files", out / "bundle")
    golden.add(out / "bundle")
    return out / "bundle"


Built = tuple[Model, Path]
Find = Callable[[str], Built]
KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "tags": ("BertForTokenClassification", {"id2label": dict(enumerate(TAGS))}),
    "masks": ("BertForMaskedLM", {}),
    "pairs": ("BertForSequenceClassification", {"num_labels": 1}),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, cache_folder: Path) -> Find:
    """The model and bundle of a kind, made once."""
    made: dict[str, Built] = {}

    def find(kind: str) -> Built:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            model = source(folder / "tiny", KINDS[kind][0], **KINDS[kind][1])
            made[kind] = model, sealed(model, folder / "out")
        return made[kind]

    return find


@pytest.fixture
def session(built: Find, request: pytest.FixtureRequest) -> Iterator[Session]:
    with load(built(request.param)[1], threads=1) as opened:
        yield opened


def transformers_logits(model: Model, *texts: str) -> NDArray[np.float32]:
    """The source's own class and its own tokenizer, [tokens or labels, width]."""
    kind = getattr(transformers, model.config["architectures"][0])
    module = kind.from_pretrained(model.folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model.folder)
    with torch.inference_mode():
        found: NDArray[np.float32] = module(**tokenizer(*texts, return_tensors="pt")).logits[0]
        return np.asarray(found)


@pytest.mark.parametrize("session", ["tags"], indirect=True)
def test_tokens_have_the_sources_labels_and_places_in_the_text(
    session: Session, built: Find
) -> None:
    found = session.classify_tokens([TEXT, "dog"])
    expected = transformers_logits(built("tags")[0], TEXT)[1:-1]  # without [CLS] and [SEP]
    assert [token["label"] for token in found[0]] == [TAGS[i] for i in expected.argmax(1)]
    assert all(token["word"] == TEXT[token["start"] : token["end"]] for token in found[0])
    assert "".join(token["word"] for token in found[0]) == TEXT.replace(" ", "")
    chances = torch.softmax(torch.from_numpy(expected), 1).amax(1).numpy()
    assert [token["score"] for token in found[0]] == pytest.approx(chances, abs=1e-4)


@pytest.mark.parametrize("session", ["masks"], indirect=True)
def test_each_mask_has_the_sources_likeliest_tokens(session: Session, built: Find) -> None:
    text = f"the {session.mask_token} fox {session.mask_token}"
    found = session.fill([text], top_k=3)[0]
    logits = transformers_logits(built("masks")[0], text)
    places = [at for at, i in enumerate(session.tokenize([text])[0]) if i == session.mask_id]
    assert len(found) == len(places) == 2
    for answers, at in zip(found, places, strict=True):
        order = np.argsort(-logits[at], kind="stable")[:3]
        assert [answer["id"] for answer in answers] == order.tolist()
        chances = torch.softmax(torch.from_numpy(logits[at]), 0).numpy()[order]
        assert [answer["score"] for answer in answers] == pytest.approx(chances, abs=1e-4)


@pytest.mark.parametrize("session", ["masks"], indirect=True)
def test_a_text_without_a_mask_says_what_one_looks_like(session: Session) -> None:
    with pytest.raises(UsageError, match=r"\[MASK\]"):
        session.fill([TEXT])


@pytest.mark.parametrize("session", ["pairs"], indirect=True)
def test_a_score_is_the_sigmoid_of_the_sources_logit_of_the_pair(
    session: Session, built: Find
) -> None:
    logit = transformers_logits(built("pairs")[0], *PAIR)[0]
    turned = transformers_logits(built("pairs")[0], *PAIR[::-1])[0]
    expected = 1 / (1 + np.exp(-np.array([logit, turned])))
    assert session.score([PAIR, PAIR[::-1]]) == pytest.approx(expected, abs=1e-4)
    assert logit != turned
    assert session.score([]).shape == (0,)


@pytest.mark.parametrize("session", ["pairs"], indirect=True)
def test_tokens_of_a_pairs_second_text_are_of_the_second_type(session: Session) -> None:
    one = session.encode_whole([PAIR])[0]
    assert one.types == sorted(one.types)
    assert set(one.types) == {0, 1}


@pytest.mark.parametrize("session", ["pairs"], indirect=True)
def test_one_text_is_no_pair(session: Session) -> None:
    with pytest.raises(UsageError, match="text, text"):
        session.score([TEXT])  # type: ignore[list-item]


@pytest.mark.parametrize(("kind", "texts"), [
    ("tags", [TEXT]), ("masks", ["the [MASK] fox"]), ("pairs", list(PAIR)),
])  # fmt: skip
def test_a_bundle_prints_its_answer_as_json(built: Find, kind: str, texts: list[str]) -> None:
    command = [sys.executable, "-IB", str(built(kind)[1] / "runtime"), "--threads", "1", *texts]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    keys = {"tags": "label", "masks": "token", "pairs": "score"}
    first = answer if kind == "pairs" else answer[0] if kind == "tags" else answer[0][0]
    assert keys[kind] in first


@pytest.mark.parametrize("session", KINDS, indirect=True)
def test_golden_inputs_are_answered_again(session: Session) -> None:
    results = session.self_test()
    assert len(results) == 3
    assert all(one.passed for one in results)


def test_a_tokenizer_knows_its_mask(built: Find) -> None:
    manifest = json.loads((built("masks")[1] / "manifest.json").read_text())
    assert manifest["tokenizer"]["mask_token"] == "[MASK]"


def test_token_labels_pass_against_their_source(built: Find) -> None:
    report = check_bundle(built("tags")[1], built("tags")[0], tiny.corpus(30), FEW, quiet)
    assert {row.metric: row.detail for row in report.rows if row.verdict == "fail"} == {}
    assert report.verdict == "pass"
    assert report.value("class_agreement") == 1.0


def test_tags_are_judged_by_entities(built: Find) -> None:
    model, folder = built("tags")
    report = check_bundle(folder, model, tagged(model), FEW, quiet)
    assert report.value("f1_source") == 1.0
    assert report.value("f1_ratio") == 1.0
    assert next(row.samples for row in report.rows if row.metric == "f1_ratio") >= 100


def tagged(model: Model) -> Corpus:
    """Words of the vocabulary with the source's own labels as tags."""
    plain, reference = tiny.corpus(30), Reference(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model.folder)
    documents = []
    for document in plain.held_out:
        one = tokenizer(document.text, truncation=True, max_length=128, return_offsets_mapping=True)
        best = reference.rows([one["input_ids"]])[0].argmax(1)
        special = tokenizer.get_special_tokens_mask(one["input_ids"], already_has_special_tokens=1)
        encoded = Encoded(one["input_ids"], [], one["offset_mapping"], special)
        tags = word_tags(document.text, encoded, [TAGS[i] for i in best])
        documents.append(Document(document.text, " ".join(tags)))
    return Corpus("tagged", plain.calibration, plain.tuning, tuple(documents))


def test_masked_words_pass_against_their_source(built: Find) -> None:
    report = check_bundle(built("masks")[1], built("masks")[0], tiny.corpus(400), FEW, quiet)
    assert report.verdict == "pass", tiny.not_passed(report)
    assert (report.value("kl_mean") or 0) < 1e-6
    samples = next(row.samples for row in report.rows if row.metric == "kl_mean")
    assert samples >= 3000  # four times what was asked for: fewer prove no 99.9th percentile


def test_pairs_pass_against_their_source(built: Find) -> None:
    report = check_bundle(built("pairs")[1], built("pairs")[0], tiny.corpus(70), FEW, quiet)
    assert report.verdict == "pass", tiny.not_passed(report)
    assert (report.value("rank_correlation") or 0) > 0.999


@pytest.mark.slow
def test_other_weights_than_the_sources_fail(built: Find, tmp_path: Path) -> None:
    other = source(tmp_path / "other", "BertForMaskedLM", hidden_act="relu")
    report = check_bundle(sealed_like(built("masks")[0], other, tmp_path), built("masks")[0],
                          tiny.corpus(30), FEW, quiet)  # fmt: skip
    assert report.verdict == "fail"
    assert {row.verdict for row in report.rows if row.metric == "export_kl_mean"} == {"fail"}


def sealed_like(model: Model, other: Model, folder: Path) -> Path:
    """A bundle that computes with the other's config, and says that it is the model's."""
    from dataclasses import replace

    return sealed(replace(model, config=other.config), folder / "out")


def test_pairs_are_neighbours_and_halves() -> None:
    texts = ["a b c", "d e", "f"]
    assert pairs_of(texts, 4) == [("a b c", "d e"), ("a b", "c"), ("d e", "f"), ("d", "e")]
    assert len(pairs_of(texts, 3)) == 2


def test_a_word_has_its_first_tokens_tag_and_o_where_it_has_none() -> None:
    encoded = Encoded([2, 5, 6, 7, 3], [0] * 5, [(0, 0), (0, 2), (2, 4), (5, 7), (0, 0)],
                      [1, 0, 0, 0, 1])  # fmt: skip
    tags = ["O", "B-PER", "I-PER", "B-LOC", "O"]
    assert word_tags("abcd ef gh", encoded, tags) == ["B-PER", "B-LOC", "O"]


def test_tags_of_a_file_are_one_a_word(tmp_path: Path) -> None:
    file = tmp_path / "tags.jsonl"
    file.write_text(json.dumps({"text": "Ada of Wien", "label": ["B-PER", "O", 3]}))
    (document,) = read_documents(file)
    assert truth_tags(document, TAGS) == ["B-PER", "O", "B-LOC"]
    file.write_text(json.dumps({"text": "Ada of Wien", "label": ["B-PER", "O"]}))
    with pytest.raises(BadInputError, match=r"2 tags .* for 3 words"):
        read_documents(file)


@pytest.mark.parametrize(("config", "expected"), [
    ({}, "sigmoid"),
    ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, "identity"),
    ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}},
     "sigmoid"),
    ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "identity"),
])  # fmt: skip
def test_the_activation_is_the_cross_encoders(config: dict[str, object], expected: str) -> None:
    assert ranking_activation(config) == expected


def test_an_activation_of_its_own_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="Tanh"):
        ranking_activation({"sentence_transformers": {"activation_fn": "torch.nn.Tanh"}})


def test_ranking_needs_a_single_label(tmp_path: Path) -> None:
    source(tmp_path / "m", "BertForSequenceClassification", num_labels=3)
    with pytest.raises(BadInputError, match="3 labels"):
        sources.describe(sources.resolve(str(tmp_path / "m"), task="text-ranking"))
