"""Pictures with their captions, as users keep them: metadata.csv or metadata.jsonl beside them."""
from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecompile.errors import BadInputError, UsageError
from edgecompile.plan import _refuse_data
from edgecompile.text import captions, corpus_for
from edgecompile.text.captions import pictures_of, read_captions, texts_of
from edgecompile.text.parts import Corpus, Document

ROWS = [(f"{seed}.png", f"caption {seed}") for seed in range(40)]


def quiet_data(data: Path) -> None:
    _refuse_data(data, "image-text-embedding")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures of one colour each."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(40):
        Image.fromarray(np.full((8, 8, 3), seed, np.uint8)).save(folder / f"{seed}.png")
    return folder


def listed(folder: Path, rows: Sequence[tuple[str, str]], name: str = "metadata.csv") -> Path:
    """The file of those captions."""
    file = folder / name
    if name.endswith(".jsonl"):
        lines = [json.dumps({"file_name": one, "text": text}) for one, text in rows]
    else:
        lines = ["file_name,text", *(f'{one},"{text}"' for one, text in rows)]
    file.write_text("\n".join(lines))
    return file


def every(corpus: Corpus) -> list[Document]:
    return [one for part in corpus.parts.values() for one in part]


@pytest.mark.parametrize("name", captions.NAMES)
def test_captions_are_read_with_their_pictures(name: str, pictures: Path) -> None:
    found = every(read_captions(listed(pictures, ROWS, name)))
    texts = {d.picture.file.stem: d.label for d in found if d.picture}
    assert texts == {str(seed): f"caption {seed}" for seed in range(40)}


def test_a_folder_is_asked_for_its_captions(pictures: Path) -> None:
    listed(pictures, ROWS)
    assert len(texts_of(every(captions.corpus(pictures)))) == 40


def test_a_pictures_captions_stay_together_and_it_counts_once(pictures: Path) -> None:
    rows = [*ROWS, *((name, f"again {text}") for name, text in ROWS)]
    corpus = read_captions(listed(pictures, rows, "two.csv"))
    sizes = [(len(pictures_of(part)), len(texts_of(part))) for part in corpus.parts.values()]
    assert all(texts == 2 * seen for seen, texts in sizes)
    assert sum(seen for seen, _ in sizes) == 40


def test_a_changed_caption_changes_the_digest(pictures: Path) -> None:
    one = read_captions(listed(pictures, ROWS, "one.csv")).digests
    other = read_captions(listed(pictures, [(n, f"{t}!") for n, t in ROWS], "other.csv")).digests
    assert one != other


def test_pictures_without_captions_come_with_prose(tmp_path: Path, pictures: Path) -> None:
    for file in pictures.glob("*.png"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    corpus = captions.corpus(tmp_path)
    assert corpus.name.endswith(", docstrings")
    assert len(pictures_of(every(corpus))) == 40
    assert min(len(texts_of(part)) for part in corpus.parts.values()) > 100


def test_subfolders_names_are_no_captions(tmp_path: Path, pictures: Path) -> None:
    for number, file in enumerate(sorted(pictures.glob("*.png"))):
        place = tmp_path / ("a" if number % 2 else "b") / file.name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(file.read_bytes())
    assert {one.label for one in every(captions.corpus(tmp_path))} == {None}


@pytest.mark.parametrize("name", ["../0.png", "/etc/passwd", "none.png", "metadata.csv", ""])
def test_a_file_that_is_no_picture_of_the_folder_is_refused(name: str, pictures: Path) -> None:
    file = listed(pictures, [*ROWS, (name, "a caption")], "wrong.csv")
    with pytest.raises(BadInputError):
        read_captions(file)


def test_few_captions_are_refused(pictures: Path) -> None:
    with pytest.raises(BadInputError, match="empty"):
        read_captions(listed(pictures, ROWS[:2], "few.csv"))


def test_data_is_a_folder_or_a_file_of_captions(pictures: Path, tmp_path: Path) -> None:
    quiet_data(pictures)
    quiet_data(listed(pictures, ROWS, "mine.jsonl"))
    (tmp_path / "text.txt").write_text("some text")
    for wrong in ("text.txt", "none.csv"):
        with pytest.raises(UsageError, match="table of captions"):
            quiet_data(tmp_path / wrong)


def test_the_recipes_column_holds_the_captions(pictures: Path) -> None:
    from edgecompile.recipe import DataSpec

    lines = ["file_name,caption", *(f"{name},{text}" for name, text in ROWS)]
    (pictures / "own.csv").write_text("\n".join(lines))
    spec = DataSpec(text="caption")
    corpus = corpus_for(spec, pictures / "own.csv", "image-text-embedding")
    assert len(every(corpus)) == 40
