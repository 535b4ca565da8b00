"""Word error rate: how many words have to be changed, of how many that were said."""
from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgecompile.metrics import Measurement
from edgecompile.statistics.evidence import Function


def words(text: str) -> list[str]:
    """Lower-case words without marks, symbols and punctuation.

    As Whisper's BasicTextNormalizer (Radford et al. 2022, appendix C), which keeps letters' marks.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    kept = (" " if unicodedata.category(one)[0] in "MSP" else one for one in plain)
    return "".join(kept).split()


def errors(said: Sequence[str], found: Sequence[str]) -> int:
    """Substitutions, deletions and insertions, the fewest that make one of the other.

    Levenshtein's distance (1966) between lists of words, as NIST's sclite counts.
    """
    row = np.arange(len(found) + 1)
    numbers = {word: at for at, word in enumerate(dict.fromkeys((*said, *found)))}
    other = np.array([numbers[word] for word in found], np.int64)
    for at, word in enumerate(said, 1):
        changed = np.minimum(row[:-1] + (other != numbers[word]), row[1:] + 1)
        best = np.concatenate([[at], changed])
        # An insertion costs one a step to the right: the least of all places before.
        steps = np.arange(len(best))
        row = np.minimum.accumulate(best - steps) + steps
    return int(row[-1])


def rate(said: Sequence[str], found: Sequence[str]) -> tuple[float, int]:
    """Errors of all texts together over the words said, and these; NaN where none are."""
    pairs = [(words(one), words(other)) for one, other in zip(said, found, strict=True)]
    total = sum(len(one) for one, _ in pairs)
    wrong = sum(errors(*pair) for pair in pairs)
    return (wrong / total if total else float("nan")), total


def measure(name: str, said: Sequence[str], found: Sequence[str]) -> Measurement:
    """`name`: the word error rate, in parts of the words said, which are its samples."""
    value, total = rate(said, found)

    def chosen(kept: NDArray[np.intp]) -> float:
        return rate([said[at] for at in kept], [found[at] for at in kept])[0]

    evidence = Function(np.zeros(len(said)), np.arange(len(said)), chosen, smallest=total)
    return Measurement(name, value, "", "lower", total, evidence)


def accuracy_ratio(
    said: Sequence[str], source: Sequence[str], found: Sequence[str]
) -> Measurement:
    """`word_accuracy_ratio`: (1 - word error rate) of `found` over that of the source."""

    def ratio(kept: NDArray[np.intp]) -> float:
        truth, one, other = ([side[at] for at in kept] for side in (said, source, found))
        base = 1 - rate(truth, one)[0]
        return (1 - rate(truth, other)[0]) / base if base > 0 else float("nan")

    alone, total = np.arange(len(said)), rate(said, source)[1]
    evidence = Function(np.zeros(len(said)), alone, ratio, smallest=total)
    return Measurement("word_accuracy_ratio", ratio(alone), "", "higher", total, evidence)
