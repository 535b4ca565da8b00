"""prune_vocab: the tokens stay that a corpus and a safety list need; kept text encodes the same."""
from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgecompile.errors import BadInputError, UnsupportedError, UsageError
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.passes import CHECKPOINT, NOTE, Effort, LayerReport, PassResult, Work
from edgecompile.passes.grid import in_range
from edgecompile.pruning import vocab_tensors
from edgecompile.pruning.vocab import Choice, Vocabulary, Wish, bound, choose, read, safety
from edgecompile.structure import filled_in

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PruneVocab:
    """Tokens that the text uses at least `min_count` times: `min_vocab` to `max_vocab` in all.

    `ratio` is the share of the vocabulary that goes, which sets both.
    `corpus` is a file of text in place of the calibration part, `keep` one of words and phrases, a
    line each, whose tokens stay. Rows stay a `multiple`.
    """

    name: ClassVar[str] = "prune_vocab"
    reads_text: ClassVar[tuple[str, ...]] = ("calibration",)
    reads_target: ClassVar[bool] = False
    reads_files: ClassVar[tuple[str, ...]] = ("corpus", "keep")
    min_count: int = 1
    min_vocab: int = 0
    max_vocab: int = 0
    ratio: float = 0.0
    corpus: str = ""
    keep: str = ""
    multiple: int = 32

    def __post_init__(self) -> None:
        """Refuse what means nothing, before anything is read."""
        in_range(
            self.name, min_count=(self.min_count, 1, 1e12), min_vocab=(self.min_vocab, 0, 1e9),
            max_vocab=(self.max_vocab, 0, 1e9), ratio=(self.ratio, 0, 0.999),
            multiple=(self.multiple, 1, 1e6),
        )  # fmt: skip
        if self.ratio and (self.max_vocab or self.min_vocab):
            raise UsageError("[prune.vocab]", "ratio and a bound", "ratio, or min_vocab, max_vocab")
        if self.max_vocab and self.min_vocab > self.max_vocab:
            found = f"min_vocab = {self.min_vocab}"
            raise UsageError("[prune.vocab]", found, f"at most max_vocab = {self.max_vocab}")

    def wish(self, model: Model) -> Wish:
        """The bounds of this model's vocabulary."""
        least, most = self.min_vocab, self.max_vocab
        if self.ratio:
            left = round((1 - self.ratio) * vocab_tensors.rows_of(model))
            least = most = max(self.multiple, left - left % self.multiple)
        return Wish(self.min_count, least, most, self.multiple)

    def headers(self, model: Model) -> Model:
        """The largest that the model may be: what text needs is known when it is read.

        Ids in the config are cut to the rows, so that modules can be made of it.
        """
        there = vocab_tensors.rows_of(model)
        rows = min(there, bound(self.wish(model), there))
        if rows < 1:
            found = f"max_vocab = {self.max_vocab}"
            raise UsageError("[prune.vocab]", found, f"at least multiple = {self.multiple}")
        numbers = range(rows, there)
        config = _renumbered(model, dict.fromkeys(numbers, rows - 1)) if numbers else model.config
        return vocab_tensors.with_rows(model, rows, dict(config))

    def preview(self, model: Model) -> dict[str, Scheme]:
        """No tensor gets codes."""
        return {}

    def effort(self, model: Model) -> Effort:
        """Text is encoded three times, and every weight copied."""
        return Effort(rounded=float(model.parameters))

    def __call__(self, model: Model, work: Work) -> PassResult:
        """Write the checkpoint with fewer tokens; the model is that from here on."""
        from edgecompile.pruning import checkpoint, vocab_files

        whole, texts = read(model), self._texts(model, work)
        _refuse_rowless(whole, vocab_tensors.rows_of(model))
        work.progress("count tokens", 0, 3)
        choice = choose(whole, self._safe(whole, model, work), texts, self.wish(model))
        table = vocab_files.table_of(whole, choice)
        work.progress("compare encodings", 1, 3)
        changed = proven(whole, vocab_files.document_of(whole, choice), table, texts)
        folder, rows = work.folder / CHECKPOINT, list[LayerReport]()
        shutil.rmtree(folder, ignore_errors=True)
        names, old = vocab_tensors.tensors_of(model), list(table)

        def tensor(name: str) -> Tensor:
            before = model.weights[name]
            after = before[old].contiguous() if name in names else before.contiguous()
            rows.append(_row(name, before, after))
            return after

        work.progress("prune", 2, 3)
        config = {**_renumbered(model, table), "vocab_size": len(old)}
        checkpoint.write(model, folder, config, list(model.weights), tensor)
        gone = vocab_files.write(folder, whole, choice)
        note = _note(whole, choice, len(texts), changed, gone)
        (work.folder / NOTE).write_text(note, encoding="utf-8")
        work.progress("prune", 3, 3)
        model.weights.release()
        return PassResult(checkpoint.adopt(model, folder, note), tuple(rows))

    def _texts(self, model: Model, work: Work) -> list[str]:
        """What the tokens are counted in; a decoder's texts end as its windows join them."""
        documents: Iterable[Any] = ()
        if self.corpus:
            from edgecompile.text.files import read_documents

            documents = read_documents(work.file(self.corpus), "text", "label")
        else:
            documents = work.corpus().calibration
        end = "\n\n" if model.task == "text-generation" else ""
        return [document.text + end for document in documents if document.text.strip()]

    def _safe(self, whole: Vocabulary, model: Model, work: Work) -> list[str]:
        """The safety list as tokens, its words also after a space."""
        from edgecompile.pruning.vocab_files import named_ids
        from edgecompile.sources.huggingface import read_json

        ids = named_ids(filled_in(model).to_dict()) | vocab_tensors.fixed_ids(model)
        if (file := model.folder / "generation_config.json").is_file():
            ids |= named_ids(read_json(file))
        words = _lines(work.file(self.keep)) if self.keep else []
        texts = [*words, *(f" {word}" for word in words), *_prompts(model)]
        return list(safety(whole, ids, texts))


def proven(
    whole: Vocabulary, document: Mapping[str, Any], table: Mapping[int, int], texts: Sequence[str]
) -> int:
    """How many texts encode in another way, all of which had a token that went.

    UnsupportedError where a text whose tokens all stay would not get their new ids, or a text (or
    a hard string) an unknown token that had none.
    """
    from edgecompile.pruning.vocab import encoded, reader
    from edgecompile.text.hard_strings import hard_strings

    new = reader(document)
    if new.get_vocab() != {token: table[n] for token, n in whole.ids.items() if n in table}:
        raise UnsupportedError(
            whole.where, "tokenizers gives its tokens other ids than the file states",
            "added tokens whose ids follow the model's", "leave [prune.vocab] out",
        )  # fmt: skip
    unknown, changed = whole.ids.get(whole.kind.unknown or "", -1), 0
    every = [*texts, *hard_strings()]
    pairs = zip(encoded(whole.reader, every), encoded(new, every), strict=True)
    for number, (before, after) in enumerate(pairs):
        if [table.get(one) for one in before] == after:
            continue
        changed += number < len(texts)
        lost = unknown not in before and table.get(unknown, -1) in after
        kept = number < len(texts) or unknown not in before
        same = kept and all(one in table for one in before)
        if lost or same:
            found = f"{every[number][:60]!r} would {'be unknown' if lost else 'encode otherwise'}"
            raise UnsupportedError(
                whole.where, found, "a tokenizer whose text keeps its tokens",
                "leave [prune.vocab] out",
            )  # fmt: skip
    return changed


def _refuse_rowless(whole: Vocabulary, rows: int) -> None:
    most = max(whole.tokens)
    if most >= rows:
        found = f"token {whole.tokens[most]!r} has id {most}"
        raise BadInputError(whole.where, found, f"an id below vocab_size = {rows}")


def _renumbered(model: Model, table: Mapping[int, int]) -> dict[str, Any]:
    """The config with new ids, and those that transformers would fill in with the old ones."""
    from edgecompile.pruning.vocab_files import renumbered

    config, filled = renumbered(model.config, table), filled_in(model).to_dict()
    for key, value in filled.items():
        if key.endswith("_token_id") and key not in config and isinstance(value, int):
            config[key] = table.get(value, value)
    return config


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _prompts(model: Model) -> list[str]:
    """What the chat template makes of some conversations: a model was trained on these tokens."""
    from edgecompile.text.conversations import cases
    from edgecompile.text.source_tokens import FolderTokens
    from edgecompile.tokenizer import chat_templates

    if not chat_templates(model.folder):
        return []
    tokens = FolderTokens(model, 0)
    found = (tokens.render(case).get("text") for _, case in cases())
    return [text for text in found if text]


def _note(
    whole: Vocabulary, choice: Choice, texts: int, changed: int, gone: Sequence[str]
) -> str:
    note = (
        f"prune_vocab: {len(whole.ids)} -> {len(choice.tokens)} tokens ({choice.used} used in "
        f"{texts} texts, {choice.safe} on the safety list), {choice.covered:.2%} of the texts' "
        f"tokens; {changed} texts encode otherwise"
    )
    return f"{note}; left out: {', '.join(gone)}" if gone else note


def _row(name: str, before: Tensor, after: Tensor) -> LayerReport:
    if before.shape == after.shape:
        return LayerReport(name, "skipped", "no row a token")
    whole, left = (float(one.double().square().sum()) for one in (before, after))
    error = math.sqrt(max(0.0, 1 - left / whole)) if whole else 0.0
    return LayerReport(name, "changed", f"{list(before.shape)} -> {list(after.shape)}", error)
