"""The prose of docs-lm: from the installed Python alone, its parts apart."""
from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from edgecompile.train.data import Keys, read
from tests.models.scripts import opened

TEXT = """Heading
*******

The first paragraph is prose, wrapped
at seventy characters; {more}

   assignment_stmt ::= (target_list "=")+ (starred_expression | yield_expression) {code}

* An item of a list is prose as well. {more}
"""


@pytest.fixture(scope="module")
def prose() -> ModuleType:
    return opened("docs-lm/prose.py")


@pytest.fixture
def folder(prose: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The language reference's part of it, which takes a moment."""
    monkeypatch.setattr(prose, "docstrings", lambda: iter(()))
    prose.write(tmp_path)
    return tmp_path


def test_paragraphs_are_prose_on_one_line_without_headings_and_code(prose: ModuleType) -> None:
    text = TEXT.format(more="word " * 40, code='| target_list "*" ::= ' * 20)
    found = [line[:25] for line in prose.paragraphs(text)]
    assert found == ["The first paragraph is pr", "An item of a list is pros"]


def test_training_drops_nothing_since_no_paragraph_is_in_both_parts(folder: Path) -> None:
    data = read(folder / "train.txt", Keys(), folder / "held-out.txt", 0.0)
    assert data.dropped == 0
    assert len(data.training) > 20 * len(data.held_out) > 0


def test_two_calls_write_the_same_bytes(
    folder: Path, prose: ModuleType, tmp_path: Path
) -> None:
    for file in prose.write(tmp_path / "again"):
        assert file.read_bytes() == (folder / file.name).read_bytes()


def test_docstrings_are_those_of_the_standard_library_and_of_no_tests(
    prose: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "one.py").write_text('"""A module."""\ndef f():\n    """Its function."""\n')
    (tmp_path / "test" / "two.py").write_text('"""A test."""\n')
    monkeypatch.setattr(prose.sysconfig, "get_path", lambda _: str(tmp_path))
    assert list(prose.docstrings()) == ["A module.", "Its function."]
