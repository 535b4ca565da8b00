"""The worker's side of wire.py: one request after the other, until the stream ends."""
from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from . import golden
from .chat import Messages
from .engine import LOGIT_ROWS
from .errors import BadInputError, EdgecompileError, ResourceError, UnsupportedError, UsageError
from .sampling import Sampler, SamplingOptions
from .session import Session, load
from .wire import error_fields, receive, send

Reply = tuple[dict[str, Any], Mapping[str, NDArray[Any]]]
Arrays = Mapping[str, NDArray[Any]]


def serve(bundle: Path, verify: str, threads: int | None, provider: str = "") -> int:
    """Open the bundle, answer requests until `close` or the end of stdin; the exit code."""
    requests, replies = _take_streams()
    try:
        session = load(bundle, verify, threads, provider)
    except EdgecompileError as error:
        send(replies, {"ok": False, "more": False, "error": error_fields(error)})
        return error.exit_code
    with session:
        send(replies, {"ok": True, "more": False, **_hello(session)})
        while (message := receive(requests)) is not None:
            for header, arrays in _answer(session, *message):
                send(replies, header, arrays)
            if message[0].get("op") == "close":
                break
    return 0


def _take_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Standard input and output for the protocol alone: what an engine prints goes to stderr."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return sys.stdin.buffer, replies


def _answer(session: Session, header: dict[str, Any], arrays: Arrays) -> Iterator[Reply]:
    try:
        operation = _OPERATIONS.get(header.get("op", ""))
        if operation is None:
            raise UsageError("op", repr(header.get("op")), ", ".join(_OPERATIONS))
        for fields, values in operation(session, header, arrays):
            yield {"ok": True, "more": False, **fields}, values
    except EdgecompileError as error:
        yield {"ok": False, "more": False, "error": error_fields(error)}, {}
    except MemoryError as error:
        full = ResourceError(f"request {header.get('op')}", "out of memory", way_out=str(error))
        yield {"ok": False, "more": False, "error": error_fields(full)}, {}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        wrong = BadInputError(f"request {header.get('op')}", repr(error), "the fields of wire.py")
        yield {"ok": False, "more": False, "error": error_fields(wrong)}, {}


def _hello(session: Session) -> dict[str, Any]:
    engine = session.info.engine
    return {
        "manifest_sha256": session.info.digest,
        "task": session.info.task,
        "mask_id": session.mask_id if session.info.task == "fill-mask" else None,
        "engine": engine.name,
        "sampling_rate": session.info.audio.sampling_rate if session.info.audio else None,
        "versions": {
            "python": sys.version.split()[0],
            "numpy": np.__version__,
            engine.name: session.engine_version,
        },
        "threads": session.threads,
        "load_seconds": session.load_seconds,
        "device": session.device,
        "pid": os.getpid(),
    }


def _say_hello(session: Session, _: dict[str, Any], __: Arrays) -> Iterator[Reply]:
    yield _hello(session), {}


def _tokenize(session: Session, header: dict[str, Any], _: Arrays) -> Iterator[Reply]:
    yield {"ids": session.tokenize(header["texts"])}, {}


def _render(session: Session, header: dict[str, Any], _: Arrays) -> Iterator[Reply]:
    yield {"prompts": [_prompt(session, **case) for case in header["cases"]]}, {}


def _prompt(session: Session, messages: Messages, **options: Any) -> dict[str, Any]:
    """Text and ids of one conversation, or why its template refuses it."""
    try:
        text = session.render(messages, **options)
    except UsageError as error:
        cause = error.__cause__ or error
        return {"refused": f"{type(cause).__name__}: {cause}"}
    return {"text": text, "ids": session.prompt_ids(messages, **options)}


def _logits(session: Session, _: dict[str, Any], arrays: Arrays) -> Iterator[Reply]:
    source = arrays.get("source")
    given = source.tolist() if source is not None and source.dtype.kind == "i" else source
    chunks = session.logits(arrays["ids"].tolist(), given)
    rows_left = len(arrays["ids"])
    for chunk in chunks:
        for start in range(0, len(chunk), LOGIT_ROWS):
            rows = chunk[start : start + LOGIT_ROWS]
            rows_left -= len(rows)
            yield {"more": rows_left > 0}, {"logits": rows}


def _embed(session: Session, header: dict[str, Any], _: Arrays) -> Iterator[Reply]:
    ids = header["ids"] if "ids" in header else session.tokenize(header["texts"])
    yield {}, {"embeddings": session.embed_ids(ids, normalize=header.get("normalize"))}


def _classify(session: Session, header: dict[str, Any], _: Arrays) -> Iterator[Reply]:
    yield {"probabilities": session.classify(header["texts"])}, {}


def _encode(session: Session, header: dict[str, Any], _: Arrays) -> Iterator[Reply]:
    given = [one if isinstance(one, str) else tuple(one) for one in header["inputs"]]
    yield {"encoded": [vars(one) for one in session.encode_whole(given)]}, {}


def _rows(session: Session, header: dict[str, Any], _: Arrays) -> Iterator[Reply]:
    rows = session.rows(header["ids"], header.get("types"), header.get("at"))
    yield {}, {str(index): row for index, row in enumerate(rows)}


def _score(session: Session, header: dict[str, Any], _: Arrays) -> Iterator[Reply]:
    yield {}, {"scores": session.score([(first, second) for first, second in header["pairs"]])}


def _look(session: Session, _: dict[str, Any], arrays: Arrays) -> Iterator[Reply]:
    yield {}, {"rows": session.look(arrays["pixels"])}


def _prepare(session: Session, _: dict[str, Any], arrays: Arrays) -> Iterator[Reply]:
    yield {}, {"pixels": session.prepare(list(arrays.values()))}


def _run(session: Session, _: dict[str, Any], arrays: Arrays) -> Iterator[Reply]:
    yield {}, session.run(**arrays)


def _generate(session: Session, header: dict[str, Any], arrays: Arrays) -> Iterator[Reply]:
    tokens: list[int] = []
    clock = [time.perf_counter()]
    ids, sound = arrays["ids"].tolist(), arrays.get("sound")
    for token in session.generate_ids(ids, header["new_tokens"], sound=sound):
        clock.append(time.perf_counter())
        tokens.append(token)
    times = [(after - before) * 1000 for before, after in itertools.pairwise(clock)]
    rate = (len(tokens) - 1) * 1000 / max(sum(times[1:]), 1e-9) if len(tokens) > 1 else None
    first = times[0] if times else 0.0
    fields = {"first_token_ms": first, "tokens_per_second": rate, "token_ms": times[1:]}
    yield {"tokens": tokens, **fields}, {}


def _steps(session: Session, header: dict[str, Any], arrays: Arrays) -> Iterator[Reply]:
    """Logits of one greedy step after the other, each fed the token before."""
    found = [(token, logits.copy()) for token, logits in
             session.greedy(arrays["ids"].tolist(), header["new_tokens"])]  # fmt: skip
    tokens, logits = [token for token, _ in found], [row for _, row in found]
    yield {"tokens": tokens}, {"logits": np.stack(logits)}


def _write(session: Session, header: dict[str, Any], _: Arrays) -> Iterator[Reply]:
    """Greedy text, as an application gets it, and the ids that it is made of."""
    prompt, new = header["prompt"], header["new_tokens"]
    text = "".join(session.generate(prompt, max_new_tokens=new))
    tokens = list(session.generate_ids(session.prompt_ids(prompt), new))
    yield {"text": text, "tokens": tokens}, {}


def _sample(_: Session, header: dict[str, Any], arrays: Arrays) -> Iterator[Reply]:
    """`count` tokens drawn from the same logits."""
    sampler = Sampler(SamplingOptions(**header["options"]))
    yield {"tokens": [sampler.choose(arrays["logits"]) for _ in range(header["count"])]}, {}


def _features(session: Session, _: dict[str, Any], arrays: Arrays) -> Iterator[Reply]:
    yield {}, {"features": session.features(arrays["samples"])}


def _transcribe(session: Session, header: dict[str, Any], arrays: Arrays) -> Iterator[Reply]:
    start = time.perf_counter()
    found = session.transcribe(arrays["samples"], **header.get("options", {}))
    seconds = time.perf_counter() - start
    pieces = [vars(one) for one in found.segments]
    fields = {"text": found.text, "language": found.language, "segments": pieces}
    yield {**fields, "seconds": seconds}, {}


def _observe(session: Session, _: dict[str, Any], __: Arrays) -> Iterator[Reply]:
    yield {"cases": list(golden.observe(session))}, {}


def _self_test(session: Session, _: dict[str, Any], __: Arrays) -> Iterator[Reply]:
    yield {"results": [{**vars(one), "passed": one.passed} for one in session.self_test()]}, {}


def _peak_memory(_: Session, header: dict[str, Any], __: Arrays) -> Iterator[Reply]:
    mib = peak_memory_mib()
    if header.get("reset"):
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError as error:
            found = f"no reset of the peak ({error})"
            raise UnsupportedError("peak_memory", found, "Linux") from error
    yield {"mib": mib}, {}


def _close(_: Session, __: dict[str, Any], ___: Arrays) -> Iterator[Reply]:
    yield {}, {}


def peak_memory_mib() -> float | None:
    """Peak resident set of this process in MiB (VmHWM); None where the kernel does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    kib = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return int(kib) / 1024 if kib else None


_OPERATIONS: dict[str, Callable[[Session, dict[str, Any], Arrays], Iterator[Reply]]] = {
    "hello": _say_hello,
    "tokenize": _tokenize,
    "render": _render,
    "logits": _logits,
    "embed": _embed,
    "classify": _classify,
    "encode": _encode,
    "rows": _rows,
    "score": _score,
    "look": _look,
    "prepare": _prepare,
    "run": _run,
    "generate": _generate,
    "steps": _steps,
    "write": _write,
    "sample": _sample,
    "features": _features,
    "transcribe": _transcribe,
    "observe": _observe,
    "self_test": _self_test,
    "peak_memory": _peak_memory,
    "close": _close,
}
