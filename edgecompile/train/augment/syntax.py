"""Other word order for the same meaning, by rules that leave a text alone where they are unsure."""
from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from edgecompile.train.augment.grammar import (
    DETERMINERS,
    EMBEDDING,
    PARTICLE_VERBS,
    PARTICLES,
    PREPOSITIONS,
    SUBJECTS,
    Sentence,
    is_command,
    lowered,
    raised,
    sentence,
)
from edgecompile.train.augment.pieces import (
    Random,
    happens,
    keeps_all,
    pick,
    refuse_wrong,
    words,
)
from edgecompile.train.augment.voice import other_voice

_OPENERS = "if|unless|when|whenever|once|as soon as|before|after|until|because|although"
_FRONTED = re.compile(rf"({_OPENERS}) ([^,]+), (?:then )?([^,]+)", re.IGNORECASE)
_TRAILING = re.compile(rf"([^,]+?) ({_OPENERS}) ([^,]+)", re.IGNORECASE)
_PLEASE_FIRST = re.compile(r"please,? ([^,].*)", re.IGNORECASE)
_PLEASE_LAST = re.compile(r"(.*[^,]),? please", re.IGNORECASE)
_JOINED = re.compile(r"\b(and|or|but|so)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Syntax:
    """With `probability` one of `kinds`: the clause, please or the particle moves; other voice."""

    probability: float = 0.1  # of a text
    kinds: tuple[str, ...] = ("clauses", "please", "particles", "voice")

    def __post_init__(self) -> None:
        refuse_wrong(self, RULES)

    def __call__(self, text: str, rng: Random, kept: frozenset[str]) -> str:
        """The text in other words' order; as it is where no rule surely fits."""
        found = sentence(text)
        if found is None or not happens(rng, self.probability):
            return text
        bodies = [body for kind in self.kinds if (body := RULES[kind](found)) is not None]
        if not bodies:
            return text
        changed = found.of(bodies[pick(rng, len(bodies))])
        return changed if keeps_all(text, changed, kept) else text


def moved_clause(found: Sentence) -> str | None:
    """If A, B <-> B if A; for when, before, unless and others alike."""
    if found.mark == "?":
        return None
    if fronted := _FRONTED.fullmatch(found.body):
        opener, clause, main = fronted.groups()
        if len(words(clause)) < 2 or not _is_main(main) or _JOINED.search(main):
            return None
        if re.search(rf"\b({_OPENERS})\b", f"{clause} {main}", re.IGNORECASE):
            return None
        return f"{raised(main, found.body)} {opener.lower()} {clause}"
    return _to_front(found.body)


def _is_main(clause: str) -> bool:
    """An order, or a clause whose subject can be seen."""
    first, *rest = (word.lower() for word in words(clause))
    starts = first in SUBJECTS or first == "it" or (first in DETERMINERS and len(rest) > 1)
    return is_command(clause) or (starts and bool(rest))


def _to_front(body: str) -> str | None:
    """Only of commands, and of clauses that surely are ones: a subject pronoun or `the` begins."""
    trailing = _TRAILING.fullmatch(body)
    if not trailing or not is_command(body) or _JOINED.search(body):
        return None
    main, opener, clause = trailing.groups()
    last, first = main.split()[-1].lower(), clause.split()[0].lower()
    sure = first in SUBJECTS or (opener.lower() in ("if", "unless") and first in DETERMINERS)
    unsure = last in ("as", "even", "only", "except", "just", "right", "not", "what", "know", "see")
    again = re.search(rf"\b({_OPENERS})\b", clause, re.IGNORECASE)
    if not sure or unsure or again or len(words(clause)) < 2 or len(words(main)) < 2:
        return None
    if words(main)[0].lower() in EMBEDDING:
        return None
    return f"{raised(opener.lower(), body)} {clause}, {lowered(main)}"


def moved_please(found: Sentence) -> str | None:
    """Please A <-> A, please."""
    if found.mark == "?" or len(re.findall(r"\bplease\b", found.body, re.IGNORECASE)) != 1:
        return None
    if first := _PLEASE_FIRST.fullmatch(found.body):
        return f"{raised(first[1], found.body)}, please" if is_command(first[1]) else None
    last = _PLEASE_LAST.fullmatch(found.body)
    if not last or not is_command(last[1]):
        return None
    return f"{raised('please', found.body)} {lowered(last[1])}"


def moved_particle(found: Sentence) -> str | None:
    """Turn on the lamp <-> turn the lamp on: a determiner and one to three words after it."""
    head, *rest = found.body.split(" ")
    if head.lower() not in PARTICLE_VERBS or not is_command(found.body):
        return None
    if not rest[0].isalpha() or not all(word.isalpha() for word in rest):
        return None
    if rest[0] in PARTICLES:
        size = _noun_phrase(rest[1:])
        return " ".join([head, *rest[1 : 1 + size], rest[0], *rest[1 + size :]]) if size else None
    size = _noun_phrase(rest)
    if not size or size == len(rest) or rest[size] not in PARTICLES:
        return None
    return " ".join([head, rest[size], *rest[:size], *rest[size + 1 :]])


def _noun_phrase(rest: list[str]) -> int:
    """Words of a determiner and its noun at the start; 0 where they have no sure end."""
    if not rest or rest[0].lower() not in DETERMINERS:
        return 0
    ends = PREPOSITIONS | PARTICLES | {"now", "please", "again", "today", "tonight"}
    size = next((at for at, word in enumerate(rest) if word.lower() in ends), len(rest))
    joins = any(word.lower() in ("and", "or", "of") for word in rest)
    return size if 2 <= size <= 4 and not joins else 0


RULES: dict[str, Callable[[Sentence], str | None]] = {
    "clauses": moved_clause,
    "please": moved_please,
    "particles": moved_particle,
    "voice": other_voice,
}
