"""The command line of a bundle: prints what the model makes of a text."""
from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import EdgecompileError, LimitError, UnsupportedError, UsageError
from .manifest import GENERATING, IMAGE_TEXT
from .session import Session, load
from .verify import MODES

SHOWN_LABELS = 5  # of a picture's or a mask's, the likeliest


def main(bundle: Path, argv: Sequence[str]) -> int:
    """Run one command; errors become one line on stderr and their exit code."""
    options = _parser().parse_args(argv)
    try:
        if options.worker:
            from .worker import serve

            return serve(bundle, options.verify, options.threads, options.provider)
        return _run(bundle, options)
    except EdgecompileError as error:
        return _fail(str(error), error.exit_code)
    except MemoryError as error:
        return _fail(f"out of memory. {error}", 7)
    except KeyboardInterrupt:
        return _fail("interrupted.", 130)
    except BrokenPipeError:  # as in `... | head -1`: nobody reads on, and that is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:  # a bug of ours or the engine's: still one line and exit code 1
        return _fail(f"{type(error).__name__}: {error}. This is a bug: please report it.", 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -I BUNDLE/runtime", description=__doc__)
    add = parser.add_argument
    add("text", nargs="?", help="the input, or a picture's or sound's file; - reads standard input")
    add("second", nargs="?", help="the second text of a pair (text-ranking, classification)")
    add("others", nargs="*", help="after a picture's file, labels (image-text-embedding)")
    add("--max-new-tokens", type=int, default=256, help="where generation ends at the latest")
    add("--temperature", type=float, default=0.0, help="0 takes the likeliest token")
    add("--top-k", type=int, default=0)
    add("--top-p", type=float, default=1.0)
    add("--seed", type=int, default=0)
    add("--language", help="of speech, such as en; default: the model finds it out")
    add("--task", default="transcribe", help="of speech: transcribe, or translate into English")
    add("--timestamps", action="store_true", help="of speech: a line a piece, with its seconds")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--chat", action="store_true", help="the text is a user's turn (default)")
    form.add_argument("--raw", action="store_true", help="the text is the beginning of a document")
    add("--verify", choices=MODES, default="once", help="when to check the files' SHA-256")
    add("--threads", type=int, help="default: the physical cores this process may use")
    add("--provider", default="", help="of a bundle for GPUs: cuda, directml, webgpu, cpu, ...")
    add("--self-test", action="store_true", help="ask the golden inputs again; exit 6 if one fails")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


def _run(bundle: Path, options: argparse.Namespace) -> int:
    if options.self_test:
        with load(bundle, options.verify, options.threads, options.provider) as session:
            return _self_test(session)
    text = _read_stdin() if options.text == "-" else options.text
    if text is None:
        raise UsageError("command line", "no text", "a text, or - to read it", "see --help")
    with load(bundle, options.verify, options.threads, options.provider) as session:
        task = session.info.task
        if options.others and task != IMAGE_TEXT:
            raise UsageError("command line", f"{options.others}", f"at most two texts for {task}")
        if task == "automatic-speech-recognition":
            _print_transcript(session, text, options)
        elif task in GENERATING:
            _print_stream(session, text, options)
        elif task == "embedding":
            _print_json({"embedding": session.embed([text])[0].tolist()})
        elif task == "classification":
            both = text if options.second is None else (text, options.second)
            _print_json(session.classify([both])[0])
        elif task == "token-classification":
            _print_json(session.classify_tokens([text])[0])
        elif task == "fill-mask":
            _print_json(session.fill([text], top_k=options.top_k or SHOWN_LABELS)[0])
        elif task == "text-ranking":
            _print_json({"score": _score(session, text, options.second)})
        elif task == "image-classification":
            _print_json(_likeliest(session.classify_image([text])[0]))
        elif task == IMAGE_TEXT:
            labels = [*filter(None, [options.second]), *options.others]
            _print_json(_of_either(session, text, labels))
        else:
            way_out = "load the bundle in Python and call session.run(name=array)"
            raise UnsupportedError("command line", f"task {task}", "a task on text", way_out)
    return 0


def _score(session: Session, text: str, second: str | None) -> float:
    if second is None:
        raise UsageError("command line", "one text", "two, of which the second answers the first")
    return float(session.score([(text, second)])[0])


def _of_either(session: Session, given: str, labels: list[str]) -> dict[str, Any]:
    """A picture's vector, a text's where no file is called so, or a picture's labels."""
    picture = _is_file(given)
    if not picture and labels:
        found = f"no file {given[:100]!r}"
        raise UsageError("command line", found, "a picture's file before its labels")
    if labels:
        return _likeliest(session.classify_image([given], labels)[0])
    vectors = session.embed_image([given]) if picture else session.embed([given])
    return {"embedding": vectors[0].tolist()}


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # longer than a name may be
        return False


def _likeliest(answer: dict[str, float]) -> dict[str, float]:
    return dict(sorted(answer.items(), key=lambda pair: -pair[1])[:SHOWN_LABELS])


def _self_test(session: Session) -> int:
    """A line a golden input; LimitError (6) where an answer is not the one that was shipped."""
    start = time.perf_counter()
    results = session.self_test()
    seconds = time.perf_counter() - start
    for one in results:
        verdict = "pass" if one.passed else f"FAIL {one.fault}"
        _print(f"{one.deviation:.2e} (at most {one.tolerance:g})  {verdict}  {one.text[:40]!r}\n")
    failed = [one for one in results if not one.passed]
    if failed:
        found = f"{len(failed)} of {len(results)} answers are not those that were shipped"
        raise LimitError("self-test", found, "all within the tolerance")
    _print(f"{len(results)} golden inputs pass, {seconds * 1000:.0f} ms\n")
    return 0


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError("standard input", str(error), "UTF-8 text") from error


def _print_transcript(session: Session, file: str, options: argparse.Namespace) -> None:
    found = session.transcribe(
        file, language=options.language, task=options.task, timestamps=options.timestamps
    )
    lines = [f"{one.start:.2f} - {one.end:.2f}  {one.text}" for one in found.segments]
    _print("\n".join(lines if options.timestamps else [found.text]) + "\n")


def _print_stream(session: Session, text: str, options: argparse.Namespace) -> None:
    raw = options.raw or not (options.chat or session.has_template)
    prompt: Any = text if raw else [{"role": "user", "content": text}]
    pieces = session.generate(
        prompt,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )
    for piece in pieces:
        _print(piece)
    _print("\n")


def _print_json(value: Any) -> None:
    _print(json.dumps(value, ensure_ascii=False) + "\n")


def _print(text: str) -> None:
    """UTF-8 whatever the locale says: `python -I` ignores PYTHONIOENCODING."""
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    sys.stdout.buffer.flush()


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code
