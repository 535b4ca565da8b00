"""Write seeded commands to a home, with the one intent that each asks for, as JSON lines.

A text often mentions two things of which one is wanted: the other is turned down, was done before,
is somebody else's, or the title of a song. Words alone do not tell which.
"""
from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.config import read_toml
from edgecompile.errors import EdgecompileError, UsageError
from edgecompile.train.augment.characters import Characters

HERE = Path(__file__).resolve().parent
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
ROWS = 12000  # of all parts together
NOTHING = "nothing"
# How a text is put together, and how often.
FAMILIES = {
    "plain": 0.16, "remark": 0.12, "instead": 0.28, "done": 0.24, "when": 0.08, "contrast": 0.12,
}  # fmt: skip
TYPOS = Characters(probability=0.04)
ATTEMPTS = 200  # at a text that is not there yet

# "I already told me the weather": such a command is nothing that a person says to have done.
_TO_ME = re.compile(r"\b(me|us|my|I|we)\b")
_BY_OTHERS = re.compile(r"\{person\}|\b(I|we|who) (already |just )?\{b_past\}|I'll \{b\}")
_ASKS = re.compile(
    r"(what|which|how|is|are|will|did|has|do|should|could|can|would)('s)?\b(?! i want)",
    re.IGNORECASE,
)
Random = np.random.Generator


@dataclass(frozen=True)
class Speaker:
    """Says things in the phrasings and frames of one part."""

    part: str
    rng: Random

    @cached_property
    def intents(self) -> Mapping[str, Any]:
        """Commands and remarks by intent."""
        return read_toml(HERE / "phrasings.toml")

    @cached_property
    def words(self) -> Mapping[str, Any]:
        """Slots, opposites and verbs."""
        return read_toml(HERE / "words.toml")

    @cached_property
    def frames(self) -> Mapping[str, Any]:
        """Frames by family."""
        return read_toml(HERE / "frames.toml")

    @property
    def labels(self) -> list[str]:
        """Every intent."""
        return sorted([*self.intents, NOTHING])

    def say(self, label: str) -> str:
        """A text that asks for this intent."""
        if label == NOTHING:
            text = self._nothing()
        else:
            family = str(self.rng.choice(list(FAMILIES), p=list(FAMILIES.values())))
            text = getattr(self, f"_{family}")(label)
        return self._written(text)

    def _plain(self, label: str) -> str:
        return self._frame("plain", a=self._command(label))

    def _remark(self, label: str) -> str:
        return self._filled(self._pick(self.intents[label]["remarks"][self.part]))

    def _instead(self, label: str) -> str:
        return self._with_other("instead", label, a=self._command(label))

    def _done(self, label: str) -> str:
        return self._with_other("done", label, a=self._command(label))

    def _nothing(self) -> str:
        return self._with_other("nothing", NOTHING)

    def _when(self, label: str) -> str:
        command = self._command(label)
        if re.search(r"\b(if|whether)\b", command):  # two conditions are hard to part
            return self._frame("plain", a=command)
        condition = self._filled(self._pick(self.frames["conditions"][self.part]))
        return self._frame("when", a=command, condition=condition)

    def _contrast(self, label: str) -> str:
        able = [thing for thing in self.frames["things"] if label in thing.values()]
        if not able:
            return self._instead(label)
        thing = able[self.rng.integers(len(able))]
        states = [state for state in thing if state != "thing"]
        wanted = next(state for state in states if thing[state] == label)
        other = next(state for state in states if state != wanted)
        return self._frame("contrast", thing=self._filled(thing["thing"]), x=wanted, y=other)

    def _with_other(self, family: str, label: str, **slots: str) -> str:
        """A frame of the family with another intent's command in its three forms."""
        frame = self._pick(self.frames[family][self.part])
        other = self._command(self._other(label))
        while _BY_OTHERS.search(frame) and _TO_ME.search(other):
            other = self._command(self._other(label))
        verb, _, rest = other.partition(" ")
        forms = {
            f"b{end}": f"{form} {rest}"
            for end, form in zip(("", "_ing", "_past"), (verb, *self._forms(verb)), strict=True)
        }
        return self._filled(frame.format(person="{person}", **slots, **forms))

    def _forms(self, verb: str) -> tuple[str, str]:
        with_ing, past = self.words["verbs"][verb]
        return with_ing, past

    def _other(self, label: str) -> str:
        """Half of the time the opposite, if there is one."""
        opposites = self.words["opposites"]
        both = {**opposites, **{other: one for one, other in opposites.items()}}
        if label in both and self.rng.random() < 0.5:
            return str(both[label])
        return self._pick([one for one in self.intents if one != label])

    def _command(self, label: str) -> str:
        return self._filled(self._pick(self.intents[label]["commands"][self.part]))

    def _frame(self, family: str, **slots: str) -> str:
        frame = self._pick(self.frames[family][self.part])
        return self._filled(frame.format(person="{person}", **slots))

    def _filled(self, text: str) -> str:
        slots = self.words["slots"]
        return re.sub(r"\{(\w+)\}", lambda found: self._pick(slots[found[1]]), text)

    def _pick(self, options: Sequence[str]) -> str:
        return str(options[int(self.rng.integers(len(options)))])

    def _written(self, text: str) -> str:
        """As typed, with a capital and a mark, or as a recogniser of speech hands it over."""
        if self.rng.random() < 0.5:
            text = re.sub(r"[,:?]| -(?= )", "", text).lower()
        else:
            end = "?" if _ASKS.match(text) else self._pick([".", ".", "", "!"])
            text = text[0].upper() + text[1:] + end
        return TYPOS(text, self.rng, frozenset()) if self.rng.random() < 0.5 else text


def rows(part: str, count: int, seed: int, said: set[str]) -> Iterator[dict[str, str]]:
    """`count` different texts of a part, all intents as often; none of `said`, which grows."""
    speaker = Speaker(part, np.random.default_rng([seed, list(SHARES).index(part)]))
    labels = speaker.labels
    order = [labels[at % len(labels)] for at in range(count)]
    for at in speaker.rng.permutation(count):
        yield {"text": _new(speaker, order[at], said), "label": order[at]}


def _new(speaker: Speaker, label: str, said: set[str]) -> str:
    for _ in range(ATTEMPTS):
        text = speaker.say(label)
        key = " ".join(re.findall(r"\w+", text.lower()))
        if key not in said:
            said.add(key)
            return text
    raise UsageError("--rows", f"no more different texts for {label!r}", "fewer rows")


def write(folder: Path, count: int, seed: int) -> None:
    """train.jsonl, validation.jsonl and test.jsonl in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    said: set[str] = set()
    for part, share in SHARES.items():
        lines = (json.dumps(row) for row in rows(part, round(count * share), seed, said))
        (folder / f"{part}.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")


def rows_to_learn(folder: Path) -> tuple[Path, Path]:
    """What `edgecompile train home-commands` reads: 12,000 rows of seed 0; test.jsonl lies by."""
    write(folder, ROWS, 0)
    return folder / "train.jsonl", folder / "validation.jsonl"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder for the three parts")
    parser.add_argument("--rows", type=int, default=ROWS, help="of all parts together")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    try:
        write(chosen.out, chosen.rows, chosen.seed)
    except EdgecompileError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
