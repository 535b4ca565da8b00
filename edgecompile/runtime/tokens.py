"""The source's own tokenizer, opened with the tokenizers library, for every engine."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BadInputError, MissingLibraryError, UsageError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Pair = tuple[str, str]
_PAD_NAMES = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>")


@dataclass(frozen=True)
class Encoded:
    """One text or pair, a number a token: `types` is the text that it is of, 0 or 1.

    `offsets` are characters of that text (start, end); `special` is 1 where the template added it.
    """

    ids: list[int]
    types: list[int]
    offsets: list[tuple[int, int]]
    special: list[int]


class Tokens:
    """Text to ids and back. Safe to share between threads.

    Padding and truncation baked into tokenizer.json are dropped: `max_length` (tokens, special ones
    included; 0 for no limit) alone decides, and batches are padded by the engine.
    """

    def __init__(self, file: Path, max_length: int = 0) -> None:
        self._tokenizer = _open(file)
        self.pad_id = self._find_pad_id()
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if max_length:
            self._tokenizer.enable_truncation(max_length)

    def encode(self, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        """Token ids of each text; `special` adds what the tokenizer's template adds."""
        # One by one: encode_batch starts a thread a core, which outlives it and warns when forked.
        return [self._encode(text, None, special).ids for text in texts]

    def encode_whole(self, inputs: Sequence[str | Pair]) -> list[Encoded]:
        """Texts, or pairs of them, with all that the tokenizer says of their tokens."""
        pairs = ((one, None) if isinstance(one, str) else one for one in inputs)
        found = (self._encode(text, second) for text, second in pairs)
        return [Encoded(e.ids, e.type_ids, e.offsets, e.special_tokens_mask) for e in found]

    def _encode(self, text: str, second: str | None, special: bool = True) -> Encoding:
        """Of one text or two; too long a pair loses tokens of the longer one first."""
        try:
            return self._tokenizer.encode(text, second, add_special_tokens=special)
        except (TypeError, ValueError) as error:  # a lone surrogate, as of a broken command line
            shown = text if second is None else (text, second)
            raise UsageError("text", f"{shown!r:.100} ({error})", "valid Unicode") from error

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, special tokens left out; incomplete bytes become U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def id_of(self, token: str) -> int | None:
        """The id of a token by its exact name."""
        return self._tokenizer.token_to_id(token)

    def _find_pad_id(self) -> int:
        padding = self._tokenizer.padding
        if padding is not None:
            return int(padding["pad_id"])
        named = (self._tokenizer.token_to_id(name) for name in _PAD_NAMES)
        return next((token for token in named if token is not None), 0)


def _open(file: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        way_out = "pip install tokenizers"
        raise MissingLibraryError("tokenizers", "not installed", way_out=way_out) from error
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception for a damaged file
        raise BadInputError(str(file), str(error), "a tokenizer.json") from error
