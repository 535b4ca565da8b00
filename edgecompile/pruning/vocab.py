"""Which tokens of a vocabulary stay: those that text and a safety list need, and their parts."""
from __future__ import annotations

import json
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecompile import tokenizer
from edgecompile.errors import BadInputError, UnsupportedError
from edgecompile.model import Model
from edgecompile.pruning.vocab_kinds import Kind, kind_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACES = ("\n", "\n\n", "\t", "  ", "    ", "        ")
BATCH = 1000  # texts


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer.json, with all its tokens' ids: those of its model, and the added ones."""

    document: Mapping[str, Any]
    kind: Kind
    where: str

    @cached_property
    def added(self) -> dict[str, int]:
        """Special and other added tokens -> id."""
        listed = self.document.get("added_tokens") or ()
        return {str(one["content"]): int(one["id"]) for one in listed}

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token -> id."""
        return {**self.kind.ids, **self.added}

    @cached_property
    def tokens(self) -> dict[int, str]:
        """Id -> token."""
        return {number: token for token, number in self.ids.items()}

    @cached_property
    def reader(self) -> Tokenizer:
        """The tokenizer, which neither cuts nor pads."""
        return reader(self.document)

    def counts(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """How often each id stands in the texts, special tokens included: [ids]."""
        total = np.zeros(max(self.tokens) + 1, np.int64)
        for ids in encoded(self.reader, texts):
            total += np.bincount(ids, minlength=len(total))
        return total


def read(model: Model) -> Vocabulary:
    """A model's vocabulary; BadInputError where it has no tokenizer.json and none can be made."""
    document = json.loads(tokenizer.tokenizer_json(model.folder))
    where = f"{model.folder / 'tokenizer.json'}"
    return Vocabulary(document, kind_of(document, where), where)


def old_ids(model: Model, origin: Model) -> Sequence[int] | None:
    """The origin's id of each of the model's tokens; None where the vocabularies are the same.

    None too where the model has a token that the origin lacks: it is of another kind then.
    """
    texts = [tokenizer.tokenizer_json(one.folder) for one in (model, origin)]
    if texts[0] == texts[1]:
        return None
    smaller, whole = (reader(json.loads(text)).get_vocab() for text in texts)
    if smaller == whole or not smaller.keys() <= whole.keys():
        return None
    return [whole[token] for token in sorted(smaller, key=lambda token: smaller[token])]


def reader(document: Mapping[str, Any]) -> Tokenizer:
    """A tokenizer.json opened by tokenizers, which neither cuts nor pads."""
    from tokenizers import Tokenizer

    plain = {**document, "truncation": None, "padding": None}
    return Tokenizer.from_str(json.dumps(plain, ensure_ascii=False))


def encoded(tokens: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """Ids of each text, special tokens included."""
    for start in range(0, len(texts), BATCH):
        for one in tokens.encode_batch(list(texts[start : start + BATCH])):
            yield one.ids


@dataclass(frozen=True)
class Wish:
    """How many tokens: used at least `min_count` times, `least` to `most` (0: no bound) in all."""

    min_count: int = 1
    least: int = 0
    most: int = 0
    multiple: int = 32


@dataclass(frozen=True)
class Choice:
    """The tokens that stay, in the order of their new ids, and why there are so many."""

    tokens: tuple[str, ...]
    used: int  # tokens that the texts use
    safe: int  # on the safety list, with their parts
    covered: float  # share of the texts' tokens that stay


def choose(
    vocabulary: Vocabulary, safe: Iterable[str], texts: Sequence[str], wish: Wish
) -> Choice:
    """The safety list, then what the texts use most, then more up to `least` and the `multiple`.

    Each token comes with all that is on the way to it. `safe` are tokens. What no text uses comes
    by its id: most vocabularies were learned, and are numbered, from the commonest on.
    """
    if not any(text.strip() for text in texts):
        raise BadInputError(vocabulary.where, "no text", "text whose tokens stay", "give --data")
    counts = vocabulary.counts(texts)
    base = _closed(vocabulary, [*safe, *_unmatched(vocabulary, texts)])
    limit = _limit(vocabulary, len(base), wish)
    order = sorted(vocabulary.tokens, key=lambda one: (-counts[one], one))
    used = [one for one in order if counts[one] >= wish.min_count]
    kept = _filled(vocabulary, base, used, limit)
    whole = -(-max(len(kept), wish.least) // wish.multiple) * wish.multiple
    kept = _filled(vocabulary, kept, order, min(whole, limit))
    covered = sum(int(counts[vocabulary.ids[token]]) for token in kept) / int(counts.sum())
    seen = int((counts > 0).sum())
    return Choice(_ordered(vocabulary, kept), seen, len(base), covered)


def _limit(vocabulary: Vocabulary, base: int, wish: Wish) -> int:
    there = len(vocabulary.ids)
    limit = min(there, bound(wish, there))
    if base > limit:
        raise UnsupportedError(
            vocabulary.where, f"{base} tokens are on the safety list, {limit} may stay",
            "room for special tokens, characters and what [prune.vocab] keep names",
            f"--set prune.vocab.max_vocab={-(-base // wish.multiple) * wish.multiple}",
        )  # fmt: skip
    return limit


def bound(wish: Wish, there: int) -> int:
    """At most how many tokens will stay, before any text is read."""
    return wish.most - wish.most % wish.multiple if wish.most else there


def _closed(vocabulary: Vocabulary, tokens: Iterable[str]) -> dict[str, None]:
    """Tokens and their parts, each once."""
    found: dict[str, None] = {}
    for token in tokens:
        found[token] = None
        found |= dict.fromkeys(vocabulary.kind.parts(token))
    return found


def _filled(
    vocabulary: Vocabulary, kept: Mapping[str, None], order: Iterable[int], limit: int
) -> dict[str, None]:
    """More tokens in that order, each with its parts, as long as there is room for both."""
    found = dict(kept)
    for number in order:
        if len(found) == limit:
            break
        wanted = [t for t in _closed(vocabulary, [vocabulary.tokens[number]]) if t not in found]
        if len(found) + len(wanted) <= limit:
            found |= dict.fromkeys(wanted)
    return found


def _ordered(vocabulary: Vocabulary, kept: Iterable[str]) -> tuple[str, ...]:
    """The model's tokens by their old ids, then those that were added: as tokenizers counts."""
    own = vocabulary.kind.ids
    return tuple(sorted(kept, key=lambda token: (token not in own, vocabulary.ids[token])))


def _unmatched(vocabulary: Vocabulary, texts: Sequence[str]) -> Iterator[str]:
    """Tokens that begin a word of the texts that has no encoding."""
    tokens, unknown = vocabulary.reader, vocabulary.ids.get(vocabulary.kind.unknown or "")
    for text, ids in zip(texts, encoded(tokens, texts), strict=True):
        if unknown not in ids or tokens.pre_tokenizer is None:
            continue
        plain = tokens.normalizer.normalize_str(text) if tokens.normalizer else text
        for word, _ in tokens.pre_tokenizer.pre_tokenize_str(plain):
            yield from vocabulary.kind.unmatched(word)


def safety(vocabulary: Vocabulary, ids: Iterable[int], texts: Iterable[str]) -> Iterator[str]:
    """Tokens that stay whatever text says.

    Added ones, what the kind always needs, those of `ids` (a config's), and all of which `texts`,
    letters, digits, punctuation and white space are made.
    """
    yield from vocabulary.added
    yield from vocabulary.kind.always()
    if (unknown := vocabulary.kind.unknown) is not None:
        yield unknown
    yield from (vocabulary.tokens[number] for number in ids if number in vocabulary.tokens)
    signs = [*string.ascii_letters, *string.digits, *string.punctuation, *SPACES]
    every = [*(f"{before}{one}" for one in signs for before in ("", " ", "a")), *texts]
    for row in encoded(vocabulary.reader, every):
        yield from (vocabulary.tokens[number] for number in row)
