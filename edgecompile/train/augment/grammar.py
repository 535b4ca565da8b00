"""Closed classes of English words, and what is surely a command: for rules that never guess."""
from __future__ import annotations

import re
from dataclasses import dataclass

from edgecompile.train.augment.pieces import word_set, words

# Verbs that begin a command when a determiner, a pronoun or their particle follows.
VERBS = word_set(
    "add adjust answer arm ask book bring buy call cancel change check clean clear close connect"
    " create cut delete dim disable dock download empty enable end find finish give heat increase"
    " keep launch lay leave let lock lower make move mute open order pause play post print put"
    " raise read reduce remind remove repeat replace reschedule reset restart resume save schedule"
    " send set show shut skip start stop switch take tell turn unlock unmute update wake warm wash"
    " water write"
)
DETERMINERS = word_set(
    "the a an my our your his her their its this that these those some any every each all both"
    " another"
)
OBJECTS = word_set("me us it him them everything something everyone")
PARTICLES = word_set("on off up down")
PARTICLE_VERBS = word_set("turn switch shut put")
SUBJECTS = word_set(
    "i you he she we they i'm you're he's she's we're they're i've you've we've they've i'll"
    " you'll we'll they'll i'd you'd we'd they'd it's there's that's"
)
# "Tell me when dinner is ready": the clause is what is asked for, and cannot move.
EMBEDDING = word_set(
    "ask check find give keep let make read remind show take tell write send"
)
PREPOSITIONS = word_set(
    "about after around as at before behind below beside between by during for from in inside into"
    " like near of onto out outside over since than through to toward towards under until upon via"
    " with within without if when while once unless because and or but that which who"
)
_INSIDE = re.compile(r"[.!?;:\u2026\n\"()\[\]\u2013\u2014]|--")


@dataclass(frozen=True)
class Sentence:
    """One sentence: its words with what is inside, its last mark, and the spaces around."""

    body: str
    mark: str = ""  # . ! ? or none
    before: str = ""
    after: str = ""

    def of(self, body: str, mark: str | None = None) -> str:
        """Another body in this one's place."""
        return self.before + body + (self.mark if mark is None else mark) + self.after


def sentence(text: str) -> Sentence | None:
    """The text as one plain sentence; None where it is several, quoted, or has brackets."""
    body = text.strip()
    before, _, after = text.partition(body) if body else ("", "", "")
    mark = body[-1] if body[-1:] and body[-1] in ".!?" else ""
    body = body[: len(body) - len(mark)]
    if not body or body[-1].isspace() or _INSIDE.search(body) or len(words(body)) < 2:
        return None
    return Sentence(body, mark, before, after)


def is_command(body: str) -> bool:
    """Whether a sentence surely is an order: a verb of VERBS before what only can be its object."""
    first = [word.lower() for word in body.split()[:3]]
    if len(first) < 2 or first[0] not in VERBS:
        return False
    if first[0] in PARTICLE_VERBS and first[1] in PARTICLES:
        return len(first) > 2
    return first[1] in DETERMINERS or first[1].rstrip(",") in OBJECTS


def lowered(body: str) -> str:
    """The body to go on with inside a sentence: a capital of its first word alone is dropped."""
    first = body.split()[0]
    proper = first in ("I", "OK") or first.startswith("I'") or not first.istitle()
    return body if proper else body[0].lower() + body[1:]


def raised(body: str, like: str) -> str:
    """The body with a capital where `like` begins with one."""
    return body[0].upper() + body[1:] if like[:1].isupper() else body
