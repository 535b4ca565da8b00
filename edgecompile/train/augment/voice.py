"""Active to passive and back, where subject, verb and object are surely what they seem."""
from __future__ import annotations

from edgecompile.train.augment.grammar import DETERMINERS, Sentence, lowered, raised
from edgecompile.train.augment.pieces import word_set

# Past forms that are participles too, of verbs that take an object and no clause.
PAST = word_set(
    "activated adjusted booked bought cancelled canceled cleaned closed damaged delivered"
    " destroyed disabled dropped emptied enabled fixed found installed invited locked lost moved"
    " muted opened ordered painted parked paused printed removed repaired replaced restarted sent"
    " sold started stopped switched tested unlocked unplugged updated washed"
)
ME = {"i": "me", "he": "him", "she": "her", "we": "us", "they": "them"}
I = {other: one for one, other in ME.items()}  # noqa: E741  (the word)
PEOPLE = word_set(
    "boy brother cat child cleaner colleague company customer daughter doctor dog driver engineer"
    " father friend girl guest guy lady landlord man manager mechanic mother nurse owner plumber"
    " robot sister son teacher team technician tenant visitor wife woman"
)
SINGULAR = word_set("a an this that another every each")
# With these a last word is no object: he left the other day, the cat slept that night.
TIMES = word_set(
    "afternoon day evening fortnight hour minute moment month morning night second time way week"
    " weekend while year spring summer autumn winter monday tuesday wednesday thursday friday"
    " saturday sunday"
)
PLURALS = word_set(
    "children data feet fish geese media men mice people police sheep series species teeth women"
    " scissors"
)


def other_voice(found: Sentence) -> str | None:
    """She closed the door <-> the door was closed by her; None where that is not certain."""
    parts = found.body.split(" ")
    if found.mark == "?" or not all(part.isalpha() for part in parts):
        return None
    return _passive(parts, found.body) or _active(parts, found.body)


def _passive(parts: list[str], body: str) -> str | None:
    """[subject] [past] [determiner noun] -> [determiner noun] was [past] by [object]."""
    if len(parts) not in (4, 5):
        return None
    *subject, verb, determiner, noun = parts
    if verb not in PAST or not _one_thing(determiner, noun):
        return None
    if len(subject) == 1 and subject[0].lower() in ME:
        agent = ME[subject[0].lower()]
    elif _person(subject):
        agent = lowered(" ".join(subject))
    else:
        return None
    return raised(f"{determiner} {noun} was {verb} by {agent}", body)


def _active(parts: list[str], body: str) -> str | None:
    """[determiner noun] was [past] by [object] -> [subject] [past] [determiner noun]."""
    if len(parts) not in (6, 7) or parts[2] != "was" or parts[4] != "by":
        return None
    determiner, noun, _, verb, _, *agent = parts
    if verb not in PAST or not _one_thing(determiner, noun):
        return None
    if len(agent) == 1 and agent[0] in I:
        subject = I[agent[0]]
    elif _person(agent):
        subject = " ".join(agent)
    else:
        return None
    subject = "I" if subject == "i" else raised(subject, body)
    return f"{subject} {verb} {lowered(f'{determiner} {noun}')}"


def _person(phrase: list[str]) -> bool:
    """A determiner and one who acts."""
    return (
        len(phrase) == 2
        and phrase[0].lower() in DETERMINERS
        and phrase[1].lower() in PEOPLE
    )


def _one_thing(determiner: str, noun: str) -> bool:
    """A singular noun after its determiner: `was` is right, and it is no point in time."""
    small, first = noun.lower(), determiner.lower()
    if first not in DETERMINERS or first in ("these", "those", "all", "both", "some", "any"):
        return False
    if small in TIMES | PLURALS or small.endswith("ly"):
        return False
    return first in SINGULAR or not small.endswith("s")
