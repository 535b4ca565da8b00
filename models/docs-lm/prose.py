"""Write English technical prose: what the installed Python says about itself, in two parts.

Paragraphs of the language reference (pydoc's topics) and of the standard library's docstrings.
"""
from __future__ import annotations

import argparse
import ast
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgecompile.errors import BadInputError, EdgecompileError
from edgecompile.train.data import is_held_out

SHARE = 0.03  # of the paragraphs are held out, by a hash of their text
SHORTEST = 200  # characters: shorter ones are headings and lists of names
PROSE = 0.93  # of a paragraph are letters, spaces, commas and full stops; code has fewer
# Tests, and packages that are copies of others' work under other licences.
LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "ensurepip", "turtledemo"}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_WORDS = re.compile(r"[A-Za-z ,.]")


def topics() -> Iterator[str]:
    """The language reference, as `help()` shows it."""
    try:
        from pydoc_data.topics import topics as found
    except ImportError as error:
        raise BadInputError(
            "docs-lm", "this Python came without pydoc_data", "the whole standard library",
            "install it: python.org's Python has it, a distribution's may have a package apart",
        ) from error
    yield from (found[name] for name in sorted(found))


def docstrings() -> Iterator[str]:
    """Of every module, class and function in the standard library's files, in their order."""
    library = Path(sysconfig.get_path("stdlib"))
    for file in sorted(library.rglob("*.py")):
        if LEFT_OUT.isdisjoint(file.relative_to(library).parts):
            tree = ast.parse(file.read_bytes())
            nodes = (node for node in ast.walk(tree) if isinstance(node, DOCUMENTED))
            yield from (text for node in nodes if (text := ast.get_docstring(node)))


def paragraphs(text: str) -> Iterator[str]:
    """Those that are prose, each on one line; a list's mark goes."""
    for block in re.split(r"\n\s*\n", text):
        line = re.sub(r"^[*-] ", "", " ".join(block.split()))
        if len(line) >= SHORTEST and len(_WORDS.findall(line)) >= PROSE * len(line):
            yield line


def parts() -> tuple[list[str], list[str]]:
    """Paragraphs to learn from, and those held out; none is there twice."""
    texts = (text for source in (topics(), docstrings()) for text in source)
    found = dict.fromkeys(line for text in texts for line in paragraphs(text))
    return (
        [line for line in found if not is_held_out(line.casefold(), SHARE)],
        [line for line in found if is_held_out(line.casefold(), SHARE)],
    )


def write(folder: Path) -> tuple[Path, Path]:
    """train.txt and held-out.txt in a folder: what `edgecompile train docs-lm` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "train.txt", folder / "held-out.txt"
    for file, lines in zip(files, parts(), strict=True):
        file.write_text("\n\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return files


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder for the two parts")
    try:
        for file in write(parser.parse_args(arguments).out):
            print(f"{file}: {file.stat().st_size} bytes")
    except EdgecompileError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
