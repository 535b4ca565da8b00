"""Golden inputs: a few texts with the answers that shipped, to prove an engine and processor."""
from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import heads
from .errors import BadInputError, UnsupportedError
from .manifest import IMAGE_TEXT
from .speech import TRANSCRIBE

if TYPE_CHECKING:
    from .engine import Float32
    from .session import Session

FORMAT = 1
NAME = "golden.json"
STEPS = 8  # greedy tokens of a decoder's case
LIKELIEST = 16  # tokens whose log-probabilities are kept a step
# A greedy token is asked for only while the next best is clearly worse: rounding may swap equals.
CLEAR = 0.5  # logits

# Our own words, with what tokenizers part ways on: digits, accents, wide letters, an emoji.
TEXTS = (
    "Seven wet foxes crossed the yard at 6:45, and nobody saw them go.",
    "naïve café, 東京 3.14 🚀",
    "A bundle carries a few sentences like this one together with the answers that its engine gave "
    "on the day it was made. Whoever opens it later, on another processor, asks the same again.",
)


PATTERNS = ("0", "1", "2")  # numbers of our own pictures


@dataclass(frozen=True)
class GoldenResult:
    """One case: `deviation` is 1 - cosine or a KL divergence in nats, never above `tolerance`."""

    text: str
    deviation: float
    tolerance: float
    fault: str = ""  # what differs: token ids, greedy tokens; empty when nothing does

    @property
    def passed(self) -> bool:
        """Same tokens, answers within the tolerance; NaN is never within."""
        return not self.fault and self.deviation <= self.tolerance


def observe(session: Session, texts: Sequence[str] = TEXTS) -> Iterator[dict[str, Any]]:
    """What the opened bundle makes of each text: `ids`, then `values` or a decoder's `steps`.

    Of pictures and sound, `text` is the number of a pattern of our own; of a model of both texts
    and pictures those come first.
    """
    if session.info.speech is not None:
        yield from map(functools.partial(_heard, session), texts if texts != TEXTS else PATTERNS)
        return
    if session.info.task == IMAGE_TEXT:
        texts = [*PATTERNS, *TEXTS] if texts == TEXTS else texts
        yield from map(functools.partial(_of_either, session), texts)
        return
    if session.info.pictures is not None:
        yield from map(functools.partial(_seen, session), texts if texts != TEXTS else PATTERNS)
        return
    if session.info.task == "fill-mask" and texts == TEXTS:
        texts = [masked(text, heads.mask_token(session.info)) for text in texts]
    for text in texts:
        if session.info.task == "text-ranking":
            yield _scored(session, text)
            continue
        ids = session.tokenize([text])[0]
        if not ids:
            continue
        case: dict[str, Any] = {"text": text, "ids": ids}
        if session.info.task == "embedding":
            case["values"] = _short(session.embed_ids([ids])[0])
        elif session.info.task == "classification":
            case["values"] = list(session.classify([text])[0].values())
        elif session.info.task == "token-classification":
            case["values"] = _short(session.rows([ids])[0].ravel())
        elif session.info.task == "fill-mask":
            case["steps"] = [_step(scores) for scores in _mask_rows(session, ids)]
        else:
            case["steps"] = list(_greedy(session, ids))
        yield case


def _seen(session: Session, pattern: str) -> dict[str, Any]:
    """What the bundle makes of one of our own pictures."""
    answer = session.classify_image([picture(int(pattern))])[0]
    return {"text": pattern, "ids": [], "values": _short(np.array(list(answer.values())))}


def _heard(session: Session, pattern: str) -> dict[str, Any]:
    """The likeliest tokens after a beginning without language, of one of our own sounds."""
    info = session.info
    assert info.speech is not None
    assert info.audio is not None
    start = info.generation.start_token_id if info.generation else None
    if start is None:
        raise BadInputError("manifest", "no start_token_id", "one for a model of speech")
    window = info.audio.n_samples / info.audio.sampling_rate
    features = session.features(sound(int(pattern), window, info.audio.sampling_rate))
    ids = [start, *info.speech.beginning(None, TRANSCRIBE, timed=False)]
    return {"text": pattern, "ids": ids, "steps": list(_greedy(session, ids, features))}


def sound(pattern: int, seconds: float, rate: int) -> NDArray[np.float32]:
    """Our own test sound of that number, float32 [n] of at most 3 s: swelling harmonics."""
    time = np.arange(int(min(3.0, seconds) * rate)) / rate
    pitch = 110.0 * (1 + pattern / 3)
    waves = sum(np.sin(2 * np.pi * pitch * n * time + n * n) / n for n in range(1, 12))
    return np.asarray(waves * (1 + np.sin(2 * np.pi * (2 + pattern) * time)) / 8, np.float32)


def _of_either(session: Session, text: str) -> dict[str, Any]:
    """The vector of one of our pictures, by its number, or of a text."""
    if text in PATTERNS:
        vector = session.embed_image([picture(int(text))])[0]
        return {"text": text, "ids": [], "values": _short(vector)}
    ids = session.tokenize([text])[0]
    return {"text": text, "ids": ids, "values": _short(session.embed_ids([ids])[0])}


def picture(pattern: int) -> NDArray[np.uint8]:
    """Our own test picture of that number, uint8 [240, 320, 3]: waves of three colours."""
    rows, columns = np.mgrid[0:240, 0:320] / 320
    waves = (np.sin((9 + 7 * pattern) * rows + 5 * band * columns + band) for band in range(3))
    return np.stack([np.rint(127.5 + 127.5 * wave).astype(np.uint8) for wave in waves], axis=2)


def _greedy(
    session: Session, ids: Sequence[int], sound: Float32 | None = None
) -> Iterator[dict[str, Any]]:
    """Log-probabilities of the likeliest tokens, greedy token after greedy token."""
    for token, logits in session.greedy(ids, STEPS, sound):
        yield {**_step(logits), "token": int(token)}


def _step(logits: Float32) -> dict[str, Any]:
    """One choice: the likeliest token, whether it leads by far, and the likeliest few."""
    scores = _log_softmax(logits)
    order = np.lexsort((np.arange(len(scores)), -scores))[:LIKELIEST]
    clear = len(order) > 1 and scores[order[0]] - scores[order[1]] >= CLEAR
    return {
        "token": int(order[0]), "clear": bool(clear), "likeliest": order.tolist(),
        "log_probabilities": _short(scores[order]),
    }  # fmt: skip


def _mask_rows(session: Session, ids: Sequence[int]) -> Float32:
    """Logits [masks, vocabulary] of a text's masks."""
    mask = session.mask_id
    return session.rows([ids], at=[[at for at, token in enumerate(ids) if token == mask]])[0]


def masked(text: str, mask: str) -> str:
    """The text with its third word hidden."""
    words = text.split(" ")
    return " ".join([*words[:2], mask, *words[3:]])


def _scored(session: Session, text: str) -> dict[str, Any]:
    """The text before each of TEXTS: one number alone has no direction to compare."""
    encoded = session.encode_whole([(text, other) for other in TEXTS])
    rows = session.rows([one.ids for one in encoded], [one.types for one in encoded])
    ids = [token for one in encoded for token in one.ids]
    return {"text": text, "ids": ids, "values": _short(np.concatenate(rows))}


def read(bundle: Path, name: str) -> dict[str, Any]:
    """The bundle's golden file; its hash has been checked with the others."""
    try:
        table = json.loads((bundle / name).read_text(encoding="utf-8"))
        if table["format"] != FORMAT or not table["cases"]:
            raise BadInputError(name, f"format {table['format']!r}", f"{FORMAT}, and cases")
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(name, repr(error), "golden inputs") from error
    return dict(table)


def compare(session: Session, table: Mapping[str, Any]) -> list[GoldenResult]:
    """Ask the session for each case again."""
    if session.info.task == "module":
        raise UnsupportedError("self-test", "a torch module", "a model of text")
    tolerance, results = float(table["tolerance"]), []
    for expected in table["cases"]:
        found = next(observe(session, [expected["text"]]))
        results.append(_compared(expected, found, tolerance))
    return results


def _compared(
    expected: Mapping[str, Any], found: Mapping[str, Any], tolerance: float
) -> GoldenResult:
    text = str(expected["text"])
    if expected["ids"] != found["ids"]:
        return GoldenResult(text, 0.0, tolerance, "the token ids differ")
    if "values" in expected:
        return GoldenResult(text, _cosine_gap(expected["values"], found["values"]), tolerance)
    worst = 0.0
    for at, (step, now) in enumerate(zip(expected["steps"], found["steps"], strict=True)):
        worst = float(np.maximum(worst, divergence(step, now)))  # which keeps NaN
        if step["token"] != now["token"]:
            fault = f"greedy token {at} is {now['token']}, not {step['token']}"
            return GoldenResult(text, worst, tolerance, fault if step["clear"] else "")
    return GoldenResult(text, worst, tolerance)


def divergence(expected: Mapping[str, Any], found: Mapping[str, Any]) -> float:
    """KL divergence in nats of the step's likeliest tokens, all others taken as one."""
    now = dict(zip(found["likeliest"], found["log_probabilities"], strict=True))
    floor = min(now.values())  # a token that is no longer among the likeliest has at most that
    p = np.exp(np.array(expected["log_probabilities"], np.float64))
    q = np.exp(np.array([now.get(token, floor) for token in expected["likeliest"]], np.float64))
    rest_p, rest_q = max(1 - p.sum(), 1e-9), max(1 - q.sum(), 1e-9)
    return float(np.sum(p * np.log(p / q)) + rest_p * np.log(rest_p / rest_q))


def _cosine_gap(a: Sequence[float], b: Sequence[float]) -> float:
    """1 - cosine similarity; NaN where the lengths differ or a vector is zero."""
    x, y = np.array(a, np.float64), np.array(b, np.float64)
    if x.shape != y.shape:
        return float("nan")
    with np.errstate(invalid="ignore"):
        return float(1 - x @ y / np.sqrt((x @ x) * (y @ y)))


def _log_softmax(logits: Float32) -> Float32:
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted, dtype=np.float64).sum()), np.float32)


def _short(values: Float32) -> list[float]:
    """Six digits: enough for the tolerance, and a file that stays small."""
    return [float(f"{value:.6g}") for value in values]
