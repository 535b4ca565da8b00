"""prune_vocab: kept text encodes the same, other text still encodes, ids are right everywhere."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.architectures import DECODERS
from edgecompile.errors import BadInputError, UnsupportedError, UsageError
from edgecompile.model import Model
from edgecompile.passes.prune_vocab import PruneVocab, proven
from edgecompile.pruning import vocab
from edgecompile.pruning.vocab import Vocabulary, Wish, choose, reader, safety
from edgecompile.pruning.vocab_files import document_of, table_of
from edgecompile.pruning.vocab_kinds import BYTES, kind_of
from edgecompile.reference import Reference
from edgecompile.sources import huggingface
from edgecompile.text import Corpus
from edgecompile.text.parts import Document
from tests import tiny
from tests.architectures import cells

WORDS = sorted(set(tiny.TEXT.split()))
KINDS = ("byte BPE", "SentencePiece BPE", "WordPiece", "Unigram")


def sentencepiece_bpe() -> dict[str, Any]:
    """A BPE of characters whose unknown ones are bytes, as Llama 2's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", *BYTES]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    made.train_from_iterator([tiny.TEXT], trainer)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    document: dict[str, Any] = json.loads(made.to_str())
    document["added_tokens"] = document["added_tokens"][:3]  # bytes are tokens as others are
    return document


@cache
def vocabulary(kind: str) -> Vocabulary:
    import tempfile

    makers = {"byte BPE": tiny.byte_bpe, "WordPiece": tiny.word_piece, "Unigram": tiny.unigram}
    if kind not in makers:
        document = sentencepiece_bpe()
    else:
        with tempfile.TemporaryDirectory() as folder:
            makers[kind](Path(folder))
            document = json.loads((Path(folder) / "tokenizer.json").read_text())
    return Vocabulary(document, kind_of(document, kind), kind)


def chosen(kind: str, texts: list[str], **wish: int) -> tuple[Mapping[int, int], Any, Any]:
    """Old id -> new id, the whole tokenizer and the smaller one."""
    whole = vocabulary(kind)
    choice = choose(whole, safety(whole, (), ()), texts, Wish(**{"multiple": 1, **wish}))
    return table_of(whole, choice), whole.reader, reader(document_of(whole, choice))


def model_of(folder: Path, kind: str = "llama", **changes: Any) -> Model:
    getattr(tiny, kind)(folder, **changes)
    return huggingface.describe(folder, kind)


def run(model: Model, folder: Path, options: PruneVocab, texts: list[str]) -> Model:
    documents = tuple(Document(text) for text in texts)
    work = tiny.work(folder, Corpus("few", documents, documents, documents))
    return options(model, dataclasses.replace(work, file=lambda name: folder / name)).model


texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
anything = st.one_of(texts, st.text(max_size=40), st.text("thequickbrown ,.12é", max_size=30))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4), st.integers(1, 4), anything)
def test_text_whose_tokens_are_kept_encodes_the_same(
    kind: str, read: list[str], least: int, asked: str
) -> None:
    table, old, new = chosen(kind, read, min_count=least)
    for text in (*read, asked):
        before = old.encode(text).ids
        unknown = vocabulary(kind).ids.get(vocabulary(kind).kind.unknown or "")
        if all(one in table for one in before) and (text in read or unknown not in before):
            assert new.encode(text).ids == [table[one] for one in before]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(texts, anything)
def test_no_text_becomes_unknown(kind: str, read: str, asked: str) -> None:
    table, old, new = chosen(kind, [read])
    unknown = vocabulary(kind).ids.get(vocabulary(kind).kind.unknown or "", -1)
    if unknown not in old.encode(asked).ids:
        assert table.get(unknown, -1) not in new.encode(asked).ids


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(texts, anything)
def test_text_comes_back_from_its_tokens_as_before(kind: str, read: str, asked: str) -> None:
    _, old, new = chosen(kind, [read])
    before = old.encode(asked, add_special_tokens=False).ids
    if vocabulary(kind).ids.get(vocabulary(kind).kind.unknown or "", -1) not in before:
        found = new.decode(new.encode(asked, add_special_tokens=False).ids)
        assert found.replace(" ##", "") == old.decode(before).replace(" ##", "")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(texts, st.integers(1, 64))
def test_the_size_is_a_multiple_or_the_whole(kind: str, read: str, multiple: int) -> None:
    table, _, _ = chosen(kind, [read], multiple=multiple)
    assert len(table) % multiple == 0 or len(table) == len(vocabulary(kind).ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bound_keeps_what_text_uses_most(kind: str) -> None:
    read = ["quick " * 50, "jumps"]
    least = len(chosen(kind, ["."])[0])
    table, old, new = chosen(kind, read, most=least + 8)
    assert len(table) <= least + 8
    assert new.encode("quick").ids == [table[one] for one in old.encode("quick").ids]


@pytest.mark.parametrize("kind", KINDS)
def test_a_floor_is_filled_with_the_first_tokens_that_nothing_uses(kind: str) -> None:
    least = len(chosen(kind, ["the"])[0])
    table, _, _ = chosen(kind, ["the"], least=least + 9)
    assert len(table) == least + 9


def test_a_ratio_is_the_share_that_goes(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", "bert")
    options = PruneVocab(ratio=0.25, multiple=1)
    smaller = run(model, tmp_path / "work", options, ["the fox"])
    assert smaller.config["vocab_size"] == round(0.75 * model.config["vocab_size"])


def test_a_merge_is_kept_with_all_that_leads_to_it() -> None:
    whole = vocabulary("byte BPE")
    token = max(whole.kind.ids, key=len)
    parts = whole.kind.parts(token)
    assert token in parts
    assert all(len(part) == 1 or any(part == a + b for a in parts for b in parts)
               for part in parts)  # fmt: skip


def test_a_word_without_an_encoding_gets_none_from_fewer_tokens() -> None:
    table = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 100,
             "vocab": {t: n for n, t in enumerate(["[UNK]", "a", "b", "##b", "ab", "abx", "##xy"])},
             }  # fmt: skip
    document = {"version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None,
                "pre_tokenizer": {"type": "Whitespace"}, "decoder": None, "model": table,
                "truncation": None, "padding": None}  # fmt: skip
    whole = Vocabulary(document, kind_of(document, "here"), "here")
    choice = choose(whole, safety(whole, (), ()), ["abxy"], Wish(multiple=1))
    assert "abx" in choice.tokens  # without it abxy would be ab and ##xy
    assert proven(whole, document_of(whole, choice), table_of(whole, choice), ["abxy"]) == 0


def test_a_decoder_answers_as_before_on_kept_text(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model")
    smaller = run(model, tmp_path / "work", PruneVocab(multiple=1), ["the quick brown fox"])
    old, new = _ids(model, "the quick brown fox"), _ids(smaller, "the quick brown fox")
    places = [_vocab(model)[token] for token in sorted(_vocab(smaller), key=_vocab(smaller).get)]  # type: ignore[arg-type]
    expected = Reference(model).logits(old)[:, places]
    np.testing.assert_allclose(Reference(smaller).logits(new), expected, atol=1e-6)
    assert smaller.parameters < model.parameters


def test_an_untied_head_is_cut_too(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", tie_word_embeddings=False)
    smaller = run(model, tmp_path / "work", PruneVocab(multiple=1), ["the quick"])
    shapes = {n: i.shape[0] for n, i in smaller.weights.infos.items() if "layers" not in n}
    assert shapes["lm_head.weight"] == shapes["model.embed_tokens.weight"] < 320


def test_an_encoder_embeds_kept_text_as_before(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", "bert")
    smaller = run(model, tmp_path / "work", PruneVocab(), ["the quick brown fox"])
    text = "the brown fox"
    found = Reference(smaller).embed([_ids(smaller, text)])
    np.testing.assert_allclose(found, Reference(model).embed([_ids(model, text)]), atol=1e-6)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta", "distilbert"])
def test_words_behind_masks_are_guessed_as_before(architecture: str, tmp_path: Path) -> None:
    kind = next(one for one in cells.KINDS if one.model_type == architecture)
    model = cells.make(kind, "fill-mask", tmp_path / "model")
    smaller = run(model, tmp_path / "work", PruneVocab(multiple=1), ["the quick brown fox"])
    places = [_vocab(model)[token] for token in sorted(_vocab(smaller), key=_vocab(smaller).get)]  # type: ignore[arg-type]
    expected = Reference(model).rows([_ids(model, "the quick fox")])[0][:, places]
    found = Reference(smaller).rows([_ids(smaller, "the quick fox")])[0]
    assert len(places) < len(_vocab(model))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("architecture", sorted(DECODERS))
def test_each_decoder_guesses_kept_tokens_as_before(architecture: str, tmp_path: Path) -> None:
    kind = next(one for one in cells.KINDS if one.model_type == architecture)
    model = cells.make(kind, "text-generation", tmp_path / "model")
    smaller = run(model, tmp_path / "work", PruneVocab(multiple=1), ["the quick brown fox"])
    ids = vocab.old_ids(smaller, model)
    assert ids is not None
    expected = Reference(model).logits(_ids(model, "the quick fox"))[:, list(ids)]
    found = Reference(smaller).logits(_ids(smaller, "the quick fox"))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_ids_in_the_config_name_the_same_tokens(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", bos_token_id=300, eos_token_id=[301, 310])
    smaller = run(model, tmp_path / "work", PruneVocab(multiple=1), ["the"])
    old, new = (
        {number: token for token, number in _vocab(one).items()} for one in (model, smaller)
    )
    assert new[smaller.config["bos_token_id"]] == old[300]
    assert [new[one] for one in smaller.config["eos_token_id"]] == [old[301], old[310]]


def test_transformers_reads_the_folder(tmp_path: Path) -> None:
    import transformers

    model = model_of(tmp_path / "model", "bert")
    smaller = run(model, tmp_path / "work", PruneVocab(), ["the quick brown fox"])
    tokens = transformers.AutoTokenizer.from_pretrained(smaller.folder)
    assert len(tokens) == smaller.config["vocab_size"]
    assert tokens("the fox")["input_ids"] == _ids(smaller, "the fox")


def test_words_of_a_file_stay(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", "bert")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "words.txt").write_text("jumps over\n\nlazy\n")
    options = PruneVocab(keep="words.txt", multiple=1)
    smaller = run(model, tmp_path / "work", options, ["the"])
    old, new = _tokens(model, "jumps over lazy"), _tokens(smaller, "jumps over lazy")
    assert old == new
    assert _tokens(smaller, "the brown") != _tokens(model, "the brown")


def test_a_file_of_text_takes_the_place_of_the_calibration_part(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", "bert")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine.txt").write_text("brown brown brown\n")
    smaller = run(model, tmp_path / "work", PruneVocab(corpus="mine.txt", multiple=1), ["the"])
    assert _tokens(smaller, "brown") == _tokens(model, "brown")


def test_the_same_text_gives_the_same_bytes(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model")
    ones = [run(model, tmp_path / name, PruneVocab(), ["the fox"]) for name in "ab"]
    assert ones[0].source.digest == ones[1].source.digest


def test_what_a_plan_says_is_at_least_what_comes(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model")
    options = PruneVocab(max_vocab=300, multiple=4)
    smaller = run(model, tmp_path / "work", options, ["the fox"])
    assert smaller.config["vocab_size"] <= options.headers(model).config["vocab_size"] == 300


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model")
    with pytest.raises(BadInputError, match="no text"):
        run(model, tmp_path / "work", PruneVocab(), ["  "])


def test_a_bound_below_the_safety_list_is_refused(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model")
    with pytest.raises(UnsupportedError, match="safety list, 64 may stay"):
        run(model, tmp_path / "work", PruneVocab(max_vocab=64), ["the fox"])


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model.folder / name).unlink()
    with pytest.raises(BadInputError, match=r"tokenizer\.json"):
        run(model, tmp_path / "work", PruneVocab(), ["the fox"])


@pytest.mark.parametrize(
    "options",
    [{"max_vocab": 9, "ratio": 0.5}, {"min_count": 0}, {"ratio": 1.0}, {"multiple": 0},
     {"min_vocab": 9, "max_vocab": 8}],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        PruneVocab(**options)


def test_another_kind_of_tokenizer_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="WordLevel"):
        kind_of({"model": {"type": "WordLevel", "vocab": {}}}, "here")


def _vocab(model: Model) -> dict[str, int]:
    from tokenizers import Tokenizer

    found: dict[str, int] = Tokenizer.from_file(str(model.folder / "tokenizer.json")).get_vocab()
    return found


def _ids(model: Model, text: str) -> list[int]:
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_file(str(model.folder / "tokenizer.json"))
    found: list[int] = tokens.encode(text).ids
    return found


def _tokens(model: Model, text: str) -> list[str]:
    names = {number: token for token, number in _vocab(model).items()}
    return [names[one] for one in _ids(model, text)]
