"""What an application sees of a bundle: run as a program with a bundle, it prints that as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TEXT = "the quick brown fox jumps over the lazy dog and numbers such as symbols pass by"


def seen(bundle: Path, token: int) -> str:
    """Answers of the bundle's own runtime, in a fresh process; `token` is one of its vocabulary."""
    command = [sys.executable, "-IB", __file__, str(bundle), str(token)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main(bundle: str, token: str) -> None:
    """Print them."""
    sys.path.insert(0, f"{bundle}/runtime")
    from edgecompile_runtime import load  # type: ignore[import-not-found]

    with load(bundle, threads=1) as session:
        ask = {"embedding": vectors, "classification": classes, "text-generation": answers}
        sys.stdout.write(json.dumps(ask[session.info.task](session, int(token))))


def vectors(session: Any, token: int) -> Any:
    """Of a text alone, of a long one, and of a text with a given token."""
    asked = [session.embed([TEXT]), session.embed([TEXT * 4]), session.embed_ids([[2, token, 3]])]
    return [one.round(4).tolist() for one in asked]


def classes(session: Any, _: int) -> Any:
    """Probabilities."""
    found = session.classify([f"so {TEXT} end"])[0]
    return {name: round(value, 4) for name, value in found.items()}


def answers(session: Any, _: int) -> Any:
    """Text that is generated greedily and drawn, of text and of a turn; logits of a long text."""
    greedy = "".join(session.generate(TEXT, max_new_tokens=24))
    drawn = ["".join(session.generate(TEXT, max_new_tokens=24, temperature=0.9, seed=seed))
             for seed in range(8)]  # fmt: skip
    turn = "".join(session.generate([{"role": "user", "content": TEXT}], max_new_tokens=24))
    ids = session.tokenize([f"{TEXT} " * 20])[0][:250]
    last = list(session.logits(ids))[-1][-1].round(2).tolist()
    settings = session.info.generation
    return [greedy, drawn, turn, last, list(settings.stop_token_ids), settings.context_length,
            session.info.data["generation"]["defaults"]]  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
