"""Held-out inputs, the same for both sides, few enough to be run many times."""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgecompile import tokenizer
from edgecompile.errors import BadInputError
from edgecompile.explain.subject import Subject
from edgecompile.model import Model
from edgecompile.passes import Progress
from edgecompile.reference import Reference
from edgecompile.tasks import IMAGE_TEXT, PAIRS, SPEECH, TEXT_TO_TEXT
from edgecompile.text import captions
from edgecompile.text.parts import Document
from edgecompile.text.pictures import open_picture
from edgecompile.text.source_tokens import FolderTokens

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 256  # tokens of a decoder's
AT_ONCE = 1024  # tokens run together
EVERY = 7  # tokens, of which one is hidden, as in the check
ANSWERS = 512 << 20  # bytes of the source's answers that are kept
TOKENS = ("input_ids", "decoder_input_ids")  # arguments of ids


@dataclass(frozen=True)
class Inputs:
    """One call: arguments by name; `at` bool [batch, length] marks tokens whose answers count.

    `truth` int64 are the tokens that the answers guess, where there are any; -1 where not.
    """

    named: Mapping[str, Any]
    at: Tensor | None = None
    truth: Tensor | None = None

    @property
    def rows(self) -> int:
        """Texts, pictures or windows in it."""
        return len(next(iter(self.named.values())))

    @property
    def width(self) -> int:
        """Tokens of a row, also those of an answer; 0 where it has none."""
        return sum(self.named[name].shape[1] for name in TOKENS if name in self.named)


def held_out(subject: Subject, reference: Reference, progress: Progress) -> list[Inputs]:
    """Inputs of the model's task, from text, pictures or sounds that no pass has read.

    What is said in a sound is heard by the source, the `reference`.
    """
    found = list(_of_task(subject, reference, progress))
    if not found:
        raise BadInputError(
            "--data", f"{len(subject.corpus.held_out)} held-out documents with nothing to compare",
            f"inputs for {subject.model.task}", "give more with --data",
        )  # fmt: skip
    return found


def _of_task(subject: Subject, reference: Reference, progress: Progress) -> Iterable[Inputs]:
    from edgecompile.calibration.batches import text_batches

    model, options = subject.model, subject.options
    documents = [d for d in subject.corpus.held_out if d.text.strip()]
    if model.task == SPEECH:
        return _sounds(subject, reference, progress)
    if model.task == IMAGE_TEXT:
        return _beside_pictures(subject)
    if model.task == TEXT_TO_TEXT:
        return halves(model, [d.text for d in documents], WINDOW, _tokens(subject))
    if model.task == "module":
        return _arrays(subject)
    if model.task in PAIRS:
        return _pairs(model, documents, options.texts)
    if model.task == "text-generation":
        length = min(WINDOW, options.tokens)
        windows = max(1, _tokens(subject) // length)
        return [
            Inputs(batch.inputs, truth=_following(batch.inputs["input_ids"]))
            for batch in _split(text_batches(model, documents, windows, length))
        ]
    found = _split(text_batches(model, documents, options.texts, WINDOW))
    if model.task == "fill-mask":
        return _masked(subject, found)
    if model.task == "token-classification":
        special = _special(FolderTokens(model, 0))
        return [Inputs(b.inputs, _plain(b.inputs, special)) for b in found]
    return [Inputs(batch.inputs) for batch in found]


def _tokens(subject: Subject) -> int:
    """As many as asked for, of a large vocabulary as many as fit ANSWERS."""
    width = int(subject.model.config.get("vocab_size") or 1)
    return min(subject.options.tokens, max(WINDOW, ANSWERS // (4 * width)))


def _split(batches: Sequence[Any]) -> Iterator[Any]:
    """Batches of at most AT_ONCE tokens."""
    from edgecompile.calibration.batches import Batch

    for batch in batches:
        tensors = {n: v for n, v in batch.inputs.items() if not isinstance(v, bool)}
        first = next(iter(tensors.values()))
        rows = max(1, AT_ONCE // first.shape[1]) if first.ndim == 2 else len(first)
        for start in range(0, len(first), rows):
            part = {n: v[start : start + rows] for n, v in tensors.items()}
            yield Batch({**batch.inputs, **part})


def _following(ids: Tensor) -> Tensor:
    """The token after each one; -1 after the last."""
    import torch

    return torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-1)


def _special(tokens: FolderTokens) -> set[int]:
    """What the tokenizer puts around every text."""
    return set(tokens.encode([""])[0])


def _plain(named: Mapping[str, Any], special: set[int]) -> Tensor:
    """Which tokens are of the text."""
    import torch

    ids, mask = named["input_ids"], named["attention_mask"]
    around = torch.tensor(sorted(special), dtype=ids.dtype)
    plain: Tensor = mask.bool() & ~torch.isin(ids, around)
    return plain


def _masked(subject: Subject, batches: Iterable[Any]) -> Iterator[Inputs]:
    """Every seventh token of a text behind a mask, until there are enough."""
    import torch

    tokens, asked = FolderTokens(subject.model, 0), _tokens(subject)
    info = subject.manifest.tokenizer
    special = _special(tokens)
    mask = set(tokens.encode([(info.mask_token if info else "") or ""])[0]) - special
    if len(mask) != 1:
        raise BadInputError(subject.model.name, "no mask token", "a fill-mask model's tokenizer")
    for batch in batches:
        at = _plain(batch.inputs, special)
        at &= (at.cumsum(1) % EVERY) == 1
        ids = batch.inputs["input_ids"]
        hidden = torch.where(at, torch.tensor(next(iter(mask))), ids)
        if at.any() and asked > 0:
            asked -= int(at.sum())
            yield Inputs({**batch.inputs, "input_ids": hidden}, at, torch.where(at, ids, -1))


def _pairs(model: Model, documents: Sequence[Document], count: int) -> Iterator[Inputs]:
    """Pairs of texts as the check makes them, one a call."""
    import torch

    from edgecompile.calibration.batches import longest
    from edgecompile.checks.heads import pairs_of

    pairs = pairs_of([document.text for document in documents], count)
    for ids, types in FolderTokens(model, longest(model, WINDOW)).encode_pairs(pairs):
        named = {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types])}
        if int(model.config.get("type_vocab_size") or 0) < 2:
            del named["token_type_ids"]
        yield Inputs(named)


def halves(model: Model, texts: Sequence[str], longest: int, total: int) -> Iterator[Inputs]:
    """A text's second half as the answer to its first, one a call, as the check has them."""
    import torch

    from edgecompile.checks.text2text import pairs

    section = tokenizer.generation(model)
    assert section is not None
    size, start = min(longest, tokenizer.context_length(model) - 1), int(section["start_token_id"])
    for pair in pairs(FolderTokens(model, 0), texts, size, total, start):
        answer = torch.from_numpy(pair.answer)[None]
        source = torch.tensor([pair.source])
        named = {"input_ids": source, "decoder_input_ids": answer, "use_cache": False}
        yield Inputs(named, truth=_following(answer))


def _sounds(subject: Subject, reference: Reference, progress: Progress) -> Iterator[Inputs]:
    """Windows of sound with what the source hears in them, one a call, as the check has them."""
    import torch

    from edgecompile.checks.speech import clips

    documents = subject.corpus.held_out[: subject.options.texts]
    tokens = FolderTokens(subject.model, 0)
    for clip in clips(reference, tokens, documents, _tokens(subject), progress):
        answer = torch.tensor([clip.answer])
        named = {
            "input_features": torch.from_numpy(clip.features)[None], "decoder_input_ids": answer,
            "use_cache": False,
        }  # fmt: skip
        yield Inputs(named, torch.arange(answer.shape[1])[None] >= clip.given, _following(answer))


def _beside_pictures(subject: Subject) -> Iterator[Inputs]:
    """A text and a picture a call: neither is padded, and no mask has to say of which it is."""
    import torch

    model, count, info = subject.model, subject.options.texts, subject.manifest.tokenizer
    if model.pictures is None or info is None:
        raise BadInputError(model.name, "no tokenizer or pictures section", "both for this task")
    shots = captions.pictures_of(subject.corpus.held_out)[:count]
    ids = FolderTokens(model, info.max_length).encode(texts_of(subject)[:count])
    for row, shot in zip(ids, shots, strict=False):
        pixels = torch.from_numpy(model.pictures.prepare([open_picture(shot)]))
        yield Inputs({"input_ids": torch.tensor([row]), "pixel_values": pixels})


def _arrays(subject: Subject) -> Iterator[Inputs]:
    """A module's example inputs and seeded changes of them, as the check makes them."""
    import torch

    from edgecompile.checks.modules import perturbed
    from edgecompile.modules import build_entry_point

    examples = build_entry_point(subject.model.entry_point).examples
    for arrays in perturbed(examples, 0):
        yield Inputs({name: torch.from_numpy(array) for name, array in arrays.items()})


def size(inputs: Sequence[Inputs]) -> int:
    """Tokens of all inputs; of those that have none, elements of the first argument."""
    return sum(
        one.rows * one.width or math.prod(next(iter(one.named.values())).shape) for one in inputs
    )


def texts_of(subject: Subject) -> list[str]:
    """Held-out texts: captions, where the model has pictures beside them."""
    if subject.model.task == IMAGE_TEXT:
        return captions.texts_of(subject.corpus.held_out)
    return [one.text for one in subject.corpus.held_out if one.text.strip()]
