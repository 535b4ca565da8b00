"""The text inside another sentence: please ..., could you ...?"""
from __future__ import annotations

import re
from dataclasses import dataclass

from edgecompile.errors import UsageError
from edgecompile.train.augment.grammar import is_command, lowered, sentence
from edgecompile.train.augment.pieces import Random, happens, keeps_all, pick, refuse_wrong

SLOT = "{text}"
COMMANDS = (
    "please {text}", "{text}, please", "{text} for me", "hey, {text}", "okay, now {text}",
    "could you {text}?", "can you please {text}?", "would you {text} for me?",
    "I'd like you to {text}", "I want you to {text}", "I need you to {text}",
)  # fmt: skip
_POLITE = re.compile(r"\bplease\b|\bfor (me|us|him|her|them|you)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Templates:
    """With `probability` the text takes the place of {text} in one of the templates.

    `templates` are yours and take any text; `commands` take only what surely is one order.
    """

    probability: float = 0.1  # of a text
    templates: tuple[str, ...] = ()
    commands: tuple[str, ...] = COMMANDS

    def __post_init__(self) -> None:
        refuse_wrong(self)
        for template in (*self.templates, *self.commands):
            if template.count(SLOT) != 1:
                found = f"template {template!r}"
                raise UsageError("[augment.templates]", found, f"{SLOT} once in it")

    def __call__(self, text: str, rng: Random, kept: frozenset[str]) -> str:
        """The text in a template; as it is where none fits, or where one brings a kept word."""
        if not happens(rng, self.probability) or not text.strip():
            return text
        filled = [template.replace(SLOT, text.strip()) for template in self.templates]
        filled += [one for template in self.commands if (one := _ordered(template, text))]
        if not filled:
            return text
        found = filled[pick(rng, len(filled))]
        return found if keeps_all(text, found, kept) else text


def _ordered(template: str, text: str) -> str:
    """An order in its template, with capital and last mark as they were; empty if it does not fit.

    A comma may part a second sentence, and what is polite already is not made so twice.
    """
    found = sentence(text)
    if found is None or found.mark == "?" or "," in found.body or not is_command(found.body):
        return ""
    if _POLITE.search(found.body):
        return ""
    body = template.replace(SLOT, lowered(found.body) if template[0] != SLOT[0] else found.body)
    if found.body[0].isupper():
        body = body[0].upper() + body[1:]
    return found.of(body, "" if body[-1] in ".!?" else found.mark)
