"""The source model's own tokenizer, and windows of tokens of a text."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecompile.errors import UnsupportedError
from edgecompile.model import Model


class SourceTokens(Protocol):
    """The source's tokenizer: ids with special tokens, cut at the model's length."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        ...

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]]
    ) -> list[tuple[list[int], list[int]]]:
        """Token ids of each pair of texts, and which of the two a token is of."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special ones."""
        ...


class FolderTokens:
    """A Hugging Face folder's tokenizer, opened by transformers; by tokenizers for a GGUF source.

    transformers rebuilds some tokenizers from their class and then loses rules that a GGUF file
    states (engines.md), so the file converted from it is read as it is.
    """

    def __init__(self, model: Model, max_length: int) -> None:
        self.max_length = max_length
        self._folder = model.folder
        self._fast: Any = None
        if model.source.kind == "gguf":
            from tokenizers import Tokenizer

            self._fast = Tokenizer.from_file(str(model.folder / "tokenizer.json"))
            self._fast.no_padding()
            self._fast.no_truncation()
            return

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, at most `max_length`."""
        if self._fast is not None:
            return [encoding.ids for encoding in self._fast.encode_batch(list(texts))]
        cut = {"truncation": True, "max_length": self.max_length} if self.max_length else {}
        found: list[list[int]] = self._tokenizer(list(texts), padding=False, **cut)["input_ids"]
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special ones."""
        if self._fast is not None:
            return str(self._fast.decode(list(ids)))
        return str(self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        ))  # fmt: skip

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(
            self._folder, local_files_only=True, trust_remote_code=False
        )

    @property
    def has_template(self) -> bool:
        """Whether the source has a chat template."""
        return bool(getattr(self._tokenizer, "chat_template", None))

    def render(self, case: Mapping[str, Any]) -> dict[str, Any]:
        """What transformers' apply_chat_template gives: `text` and `ids`, or why it `refused`."""
        given = {name: value for name, value in case.items() if name != "messages"}
        try:
            text = self._tokenizer.apply_chat_template(case["messages"], tokenize=False, **given)
        except Exception as error:  # whatever a template's expressions raise
            return {"refused": f"{type(error).__name__}: {error}"}
        if self._fast is not None:
            return {"text": text, "ids": self._fast.encode(text, add_special_tokens=False).ids}
        ids = self._tokenizer.apply_chat_template(case["messages"], return_dict=False, **given)
        return {"text": text, "ids": list(ids)}
    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]]
    ) -> list[tuple[list[int], list[int]]]:
        """Token ids of each pair of texts, cut at `max_length`, and which of the two each is of."""
        if self._fast is not None:
            raise UnsupportedError("pairs of texts", "a GGUF source", "a Hugging Face folder")
        cut = {"truncation": True, "max_length": self.max_length} if self.max_length else {}
        first, second = [a for a, _ in pairs], [b for _, b in pairs]
        found = self._tokenizer(first, second, padding=False, return_token_type_ids=True, **cut)
        return list(zip(found["input_ids"], found["token_type_ids"], strict=True))


class Piece(NamedTuple):
    """A window of text: token ids int64 [n], and of which document each is."""

    ids: NDArray[np.int64]
    documents: NDArray[np.int64]


def windows(
    tokens: SourceTokens, texts: Sequence[str], size: int, total: int
) -> list[NDArray[np.int64]]:
    """Token ids of `pieces`."""
    return [piece.ids for piece in pieces(tokens, texts, size, total)]


def pieces(tokens: SourceTokens, texts: Sequence[str], size: int, total: int) -> list[Piece]:
    """Windows of `size` tokens, at most `total` in all, of the texts one after the other.

    Each begins with what the tokenizer puts before every text (a begin token, or nothing).
    """
    start = tokens.encode([""])[0]
    ids: list[int] = []
    owners: list[int] = []
    for number, text in enumerate(texts):
        row = tokens.encode([text + "\n\n"])[0]
        row = row[len(start) :] if start and row[: len(start)] == start else row
        ids.extend(row)
        owners.extend([number] * len(row))
        if len(ids) >= total:
            break
    step = size - len(start)
    found = []
    for at in range(0, min(len(ids), total), step):
        part, of = ids[at : at + step], owners[at : at + step]
        whole = np.array([start + part, of[:1] * len(start) + of], np.int64)
        found.append(Piece(*whole))
    return [piece for piece in found if len(piece.ids) > 1]
