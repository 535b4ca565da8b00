"""The parts of the rows, checkpoints' files, the curve."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from edgecompile.errors import MissingLibraryError, ResourceError
from edgecompile.text.files import read_documents
from edgecompile.train import checkpoints, curve
from edgecompile.train.data import Keys, is_held_out, read
from edgecompile.train.metrics import read_rows
from tests.train import small


def test_a_texts_side_depends_on_the_text_alone(tmp_path: Path) -> None:
    data = read(small.data_file(tmp_path, 60), Keys(), None, 0.3)
    more = read(small.data_file(tmp_path, 90), Keys(), None, 0.3)
    assert {row.key for row in data.held_out} <= {row.key for row in more.held_out}


def test_no_text_stands_on_both_sides(tmp_path: Path) -> None:
    data = read(small.data_file(tmp_path, 90), Keys(), None, 0.3)
    assert not {row.key for row in data.held_out} & {row.key for row in data.training}


def test_the_share_is_about_what_was_asked_for() -> None:
    assert sum(is_held_out(str(n), 0.2) for n in range(5000)) == pytest.approx(1000, rel=0.1)


@settings(deadline=None)
@given(st.text())
def test_all_or_nothing_is_held_out_at_the_ends(text: str) -> None:
    key = text.encode("utf-8", "ignore").decode()
    assert (is_held_out(key, 0.0), is_held_out(key, 1.0)) == (False, True)


def test_a_builds_data_may_be_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(small.rows(5)), file)
    assert [document.label for document in read_documents(file)][:2] == ["animal", "number"]


def test_a_file_that_is_no_parquet_is_refused_or_its_library_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    file.write_bytes(b"PAR1 not at all")
    with pytest.raises(Exception, match=r"not Parquet|edgecompile\[train\]") as found:
        read_documents(file)
    assert isinstance(found.value, MissingLibraryError) or "rows.parquet" in str(found.value)


def test_a_full_disk_under_safetensors_is_a_resource_error(tmp_path: Path) -> None:
    message = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(ResourceError, match="the disk is full"), checkpoints.disk_errors(tmp_path):
        raise SafetensorError(message)


def test_a_half_written_line_ends_the_metrics(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in read_rows(file, 9)] == [1, 2]


def test_rows_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n')
    assert [row["step"] for row in read_rows(file, 2)] == [1, 2]


def test_a_new_checkpoint_takes_the_place_of_the_old(tmp_path: Path) -> None:
    for step in (2, 4):
        state = {"step": step, "fingerprint": "a run"}
        one = checkpoints.Checkpoint(state, {"w": torch.ones(2)}, {"w@step": torch.ones(1)}, {})
        checkpoints.save(tmp_path, one)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000004"]


def rows(count: int, loss: float = 1.0) -> list[dict[str, Any]]:
    held_out = {"accuracy": 0.5, "loss": 0.7}
    return [
        {"step": step + 1, "loss": loss / (step + 1), "lr": 1e-3}
        | ({"held_out": held_out} if step % 10 == 9 else {})
        for step in range(count)
    ]


@pytest.mark.parametrize("count", [1, 10, 5000])
def test_a_curve_is_xml_of_bounded_size(count: int) -> None:
    text = curve.draw(rows(count), "accuracy")
    lines = [node for node in ET.fromstring(text).iter() if node.tag.endswith("polyline")]
    assert len(lines) == 4
    assert len(lines[0].attrib["points"].split()) <= curve.POINTS


def test_a_loss_that_is_no_number_is_left_out_of_the_curve() -> None:
    assert "nan" not in curve.draw([*rows(3), {"step": 4, "loss": float("nan"), "lr": 0.0}], "loss")
