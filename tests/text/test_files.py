from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompile.errors import BadInputError, UsageError
from edgecompile.text.corpus import read
from edgecompile.text.files import read_documents
from edgecompile.text.parts import Document


def write(folder: Path, name: str, data: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_json_lines_keep_text_and_label(tmp_path: Path) -> None:
    data = '{"text": "one", "label": "a"}\n\n{"text": "two", "label": 1}\n{"text": "three"}\n'
    found = read_documents(write(tmp_path, "d.jsonl", data))
    assert found == [Document("one", "a"), Document("two", "1"), Document("three")]


def test_csv_fields_may_hold_commas_quotes_and_newlines(tmp_path: Path) -> None:
    data = 'label,text\nx,"a, ""b""\nc"\ny,plain\n'
    found = read_documents(write(tmp_path, "d.csv", data))
    assert found == [Document('a, "b"\nc', "x"), Document("plain", "y")]


def test_another_column_may_hold_the_text(tmp_path: Path) -> None:
    path = write(tmp_path, "d.csv", "body,text\nthis,not this\n")
    assert read_documents(path, "body") == [Document("this")]


def test_blank_lines_separate_paragraphs_of_a_text_file(tmp_path: Path) -> None:
    path = write(tmp_path, "d.txt", "\ufeffone\nstill one\n \n\ntwo\r\n")
    assert [d.text for d in read_documents(path)] == ["one\nstill one", "two"]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("d.jsonl", '{"text": "a"}\n{"text": \n', r"d\.jsonl:2: not JSON"),
        ("d.jsonl", '{"text": "a"}\n[1]\n', r"d\.jsonl:2: a list"),
        ("d.jsonl", '{"body": "a"}\n', r"d\.jsonl:1: no key 'text' among 'body'"),
        ("d.jsonl", '{"text": 3}\n', r"d\.jsonl:1: int under 'text'"),
        ("d.jsonl", '{"text": "a", "label": {}}\n', r"d\.jsonl:1: a label of type dict"),
        ("d.jsonl", "[" * 200_000, r"d\.jsonl:1: not JSON"),
        ("d.jsonl", "", r"no text in it"),
        ("d.csv", "a,b\n1,2\n", r"d\.csv:1: columns a, b"),
        ("d.csv", "text,label\n1,2,3\n", r"d\.csv:2: 3 fields; expected 2"),
        ("d.csv", 'text\n"open\n', r"d\.csv:2: not CSV"),
        ("d.txt", "a\n\nb\0\n", r"d\.txt:3: a NUL"),
        ("d.txt", b"fine\n\ncaf\xe9\n", r"d\.txt:3: byte 0xe9 at position 3 is not UTF-8"),
        ("d.txt", "wide".encode("utf-16"), r"d\.txt:1: a UTF-16 mark"),
        ("d.txt", "x" * (5 << 20), r"d\.txt:1: a line of more than"),
        ("d.txt", "\n\n \n", r"no text in it"),
    ],
)
def test_broken_files_are_refused_by_file_and_line(
    tmp_path: Path, name: str, data: str | bytes, says: str
) -> None:
    with pytest.raises(BadInputError, match=says):
        read_documents(write(tmp_path, name, data))


def test_an_unknown_ending_and_a_missing_file_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the ending '\.xlsx'"):
        read_documents(tmp_path / "d.xlsx")
    with pytest.raises(UsageError, match="no such file"):
        read_documents(tmp_path / "d.txt")


def test_too_few_documents_for_three_parts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="1 documents leave the part"):
        read(write(tmp_path, "d.txt", "only one"))


def test_equal_texts_stay_in_one_part(tmp_path: Path) -> None:
    texts = (f"{'A' if i % 2 else 'a'}  document {i // 4}" for i in range(400))
    lines = [json.dumps({"text": text}) for text in texts]
    corpus = read(write(tmp_path, "d.jsonl", "\n".join(lines)))
    keys = [{" ".join(d.text.casefold().split()) for d in part} for part in corpus.parts.values()]
    assert sum(map(len, keys)) == len(set().union(*keys)) == 100


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


@given(texts=st.lists(TEXTS, max_size=20))
def test_json_lines_round_trip(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("round")
    data = "\n".join(json.dumps({"text": text}) for text in [*texts, "last"])
    found = read_documents(write(folder, "d.jsonl", data))
    assert [d.text for d in found] == [*texts, "last"]
