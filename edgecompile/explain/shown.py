"""The short call whose attention and saliency are shown: a text, the first sound, a picture."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecompile.errors import UsageError
from edgecompile.explain.inputs import TOKENS, Inputs, halves, texts_of
from edgecompile.explain.subject import Subject
from edgecompile.tasks import takes_text
from edgecompile.text.source_tokens import FolderTokens

if TYPE_CHECKING:
    from torch import Tensor

LONGEST = 32  # tokens of the call whose maps are shown
PIXELS = ("pixel_values",)
BUILT_IN = ("docstrings", "made-up voice")  # names of corpora that are no user's


@dataclass(frozen=True)
class ShownInput:
    """One call, its arguments by name; by argument of ids their tokens, where they may be shown."""

    named: Mapping[str, Tensor]
    tokens: Mapping[str, tuple[str, ...]]

    @property
    def words(self) -> tuple[str, ...]:
        """All tokens, those of the answer last."""
        return tuple(token for argument in TOKENS for token in self.tokens.get(argument, ()))


def shown_input(subject: Subject, inputs: Sequence[Inputs]) -> ShownInput | None:
    """The text given, else the first held-out input, cut to LONGEST tokens; a module has none."""
    if subject.model.task == "module" or not inputs:
        return None
    named = _first(inputs[0])
    if takes_text(subject.model.task):
        texts = [subject.options.text] if subject.options.text else texts_of(subject)
        answered = "decoder_input_ids" in named
        ids = _of_halves(subject, texts) if answered else _of_text(subject, texts)
        named = {n: v for n, v in named.items() if n in PIXELS} | ids
    options = subject.options
    built_in = not options.text and subject.corpus.name.split(", ")[-1] in BUILT_IN
    shown = built_in or options.with_text
    tokens = {n: _names(subject, named[n]) for n in TOKENS if shown and n in named}
    return ShownInput(named, tokens)


def _first(one: Inputs) -> dict[str, Tensor]:
    """A row of a call; of an answer its beginning."""
    rows = {n: v[:1] for n, v in one.named.items() if not isinstance(v, bool)}
    return {n: v[:, :LONGEST] if n == "decoder_input_ids" else v for n, v in rows.items()}


def _of_halves(subject: Subject, texts: Sequence[str]) -> dict[str, Tensor]:
    """Ids of the first text's halves, of which the second answers the first."""
    pair = next(halves(subject.model, texts, LONGEST, 1), None)
    if pair is None:
        raise UsageError("--text", f"{len(texts[0].split())} words", "two or more", "a sentence")
    return {name: pair.named[name] for name in TOKENS}


def _of_text(subject: Subject, texts: Sequence[str]) -> dict[str, Tensor]:
    """Ids of the first text that is not blank."""
    import torch

    text = next((one for one in texts if one.strip()), "")
    tokens = FolderTokens(subject.model, 0)
    ids = tokens.encode([text])[0]
    if len(ids) > LONGEST:  # the special tokens at the end stay
        end = _ending(tokens.encode([""])[0], ids)
        ids = [*ids[: LONGEST - len(end)], *end]
    return {"input_ids": torch.tensor([ids])}


def _ending(special: Sequence[int], ids: Sequence[int]) -> list[int]:
    """The special tokens that close a text."""
    count = 0
    while count < len(special) - 1 and special[-1 - count] == ids[-1 - count]:
        count += 1
    return list(special[len(special) - count :])


def _names(subject: Subject, ids: Tensor) -> tuple[str, ...]:
    """Tokens as the tokenizer's file spells them."""
    from tokenizers import Tokenizer

    file = Tokenizer.from_file(str(subject.model.folder / "tokenizer.json"))
    return tuple(file.id_to_token(token) or "" for token in ids[0].tolist())
