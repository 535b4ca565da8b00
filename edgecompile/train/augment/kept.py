"""Words that bear a label: those that say which class a training text is of."""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edgecompile.errors import UsageError
from edgecompile.train.augment.pieces import folded, split, word_set
from edgecompile.train.augment.pieces import words as words_of

# They turn a text's meaning round, whatever its label, and no statistic of single words sees that.
NEGATIONS = word_set(
    "no not never none nobody nothing nowhere nor neither without cannot can't don't doesn't"
    " didn't won't wouldn't shouldn't couldn't isn't aren't wasn't weren't"
    " instead except unless but"
)


@dataclass(frozen=True)
class Keep:
    """Words that no method touches: `words`, negations, and what labels depend on.

    A word bears a label where its chi-squared with a class is significant at `level` (divided by
    the number of tests) and their correlation, phi, is at least `phi` (0.1 is Cohen's "small").
    """

    words: tuple[str, ...] = ()
    learned: bool = True
    negations: bool = True
    level: float = 0.001
    phi: float = 0.1
    fewest: int = 3  # texts with the word

    def __post_init__(self) -> None:
        for name in ("level", "phi"):
            if not 0 < getattr(self, name) <= 1:
                found = f"{name} = {getattr(self, name)}"
                raise UsageError("[augment.keep]", found, "a number above 0, at most 1")

    @property
    def given(self) -> frozenset[str]:
        """What is kept whatever the data says; of a phrase, each word."""
        listed = {folded(word) for phrase in self.words for word in split(phrase)[1::2]}
        # Both apostrophes that people write.
        both = {word.replace("'", sign) for word in NEGATIONS for sign in "'\u2019"}
        return frozenset(listed | (both if self.negations else set()))

    def of(self, rows: Iterable[tuple[str, str]]) -> frozenset[str]:
        """All kept words, folded, of training rows (text, label)."""
        if not self.learned:
            return self.given
        return self.given | {
            word
            for word, chi2, phi, tests in associations(rows, self.fewest)
            if phi >= self.phi and p_value(chi2) * tests <= self.level
        }


def associations(
    rows: Iterable[tuple[str, str]], fewest: int = 1
) -> Iterator[tuple[str, float, float, int]]:
    """(word, chi-squared, phi, number of tests) of each word with the class that it is most for.

    Of the 2 x 2 table of texts with the word and texts of the class: Manning, Raghavan and Schuetze
    (2008), Introduction to Information Retrieval, eq. 13.19; phi is sqrt(chi-squared / n).
    """
    classes, of_word, both, total = _counted(rows)
    chosen = sorted(word for word, count in of_word.items() if count >= fewest)
    found = dict.fromkeys(chosen, (0.0, 0.0))
    for (word, label), n11 in both.items():
        if word in found:
            one = _chi2(n11, of_word[word], classes[label], total)
            found[word] = max(found[word], (one, math.sqrt(one / total)))
    for word, (chi2, phi) in found.items():
        yield word, chi2, phi, len(chosen) * len(classes)


def _counted(
    rows: Iterable[tuple[str, str]],
) -> tuple[Counter[str], Counter[str], Counter[tuple[str, str]], int]:
    """Texts by class, by word, by word and class, and in all."""
    classes, of_word, both = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    for text, label in rows:
        classes[label] += 1
        seen = {folded(word) for word in words_of(text)}
        of_word.update(seen)
        both.update((word, label) for word in seen)
    return classes, of_word, both, classes.total()


def _chi2(n11: int, word: int, label: int, total: int) -> float:
    """Chi-squared of a word that is more frequent in the class than outside; else 0."""
    n10, n01 = word - n11, label - n11
    n00 = total - word - n01
    margins = label * word * (total - label) * (total - word)
    difference = n11 * n00 - n10 * n01
    return total * difference**2 / margins if margins and difference > 0 else 0.0


def p_value(chi2: float) -> float:
    """Probability of a larger chi-squared by chance, one degree of freedom."""
    return math.erfc(math.sqrt(chi2 / 2))
