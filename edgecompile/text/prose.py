"""English prose out of Python source: the docstrings of installed libraries, cleaned."""
from __future__ import annotations

import ast
import inspect
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

SHORTEST, LONGEST = 200, 2000  # characters of a paragraph
LETTERS = 0.78  # least share of letters in what is not a space

_ROLE = re.compile(r":[a-z:+-]+:`~?\.?([^`<]*?)(?:\s*<[^`]*>)?`")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)|`([^`<]+?)\s*<[^`]*>`_+")
_QUOTED = re.compile(r"`{1,2}~?([^`]+?)`{1,2}_*")
_FOOTNOTE = re.compile(r"\s*\[[\w#]+\]_")
_EMPHASIS = re.compile(r"\*{1,2}(\w[^*]*?)\*{1,2}")
_NOT_PROSE = re.compile(
    r">>>|::|\.\. |https?:|www\.|:math:|:param|:return|\\|\$|^\s*[-*+|#=~@]|^\s*\d+[.)]|\{\{|"
    r"copyright|licen[cs]e|all rights reserved|^[\w`*]+ *(\(.*\))? *:|[=<>{}|_^]{2}|\bTODO\b",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE = re.compile(r"^[A-Z\"'(].*[.!?)\"']$", re.DOTALL)


def docstrings(source: bytes) -> Iterator[str]:
    """Docstrings of a module, its classes and functions, in the order of the file."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(node, clean=False):
                yield inspect.cleandoc(text)
            waiting.extend(reversed(node.body))
        elif isinstance(node, ast.If | ast.Try):
            waiting.extend(reversed(node.body))


def paragraphs(docstring: str) -> Iterator[str]:
    """The docstring's paragraphs of prose: one line each, NFC, without markup.

    Code, parameter lists, tables, headings, formulas, links and licence text are left out.
    """
    for block in re.split(r"\n\s*\n", docstring):
        lines = block.split("\n")
        if any(line[:1].isspace() for line in lines) or _NOT_PROSE.search(block):
            continue
        text = clean(block)
        if SHORTEST <= len(text) <= LONGEST and is_prose(text):
            yield text


def clean(block: str) -> str:
    """The block without reStructuredText and Markdown marks, white space collapsed, NFC."""
    text = _LINK.sub(lambda m: m[1] or m[2], _ROLE.sub(r"\1", block))
    text = _EMPHASIS.sub(r"\1", _FOOTNOTE.sub("", _QUOTED.sub(r"\1", text)))
    return unicodedata.normalize("NFC", " ".join(text.split()))


def is_prose(text: str) -> bool:
    """Whether it begins and ends as a sentence, has several words and is mostly letters."""
    solid = text.replace(" ", "")
    letters = sum(map(str.isalpha, solid))
    return bool(_SENTENCE.match(text)) and text.isprintable() and letters >= LETTERS * len(solid)


def from_file(path: Path) -> list[str]:
    """Paragraphs of one Python file; none when it does not parse."""
    try:
        return [text for doc in docstrings(path.read_bytes()) for text in paragraphs(doc)]
    except (SyntaxError, ValueError, RecursionError):
        return []
