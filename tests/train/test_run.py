"""`edgecompile train`, as a user meets it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from edgecompile.errors import BadInputError, EdgecompileError, UnsupportedError, UsageError
from edgecompile.train.run import Request, Trained, train
from tests import tiny
from tests.train import small

SETTINGS = (
    "train.steps=12", "train.batch=8", "train.lr=1e-3", "train.threads=1", "train.save_every=1",
)  # fmt: skip
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.bert(tmp_path_factory.mktemp("source") / "tiny-bert")
    (folder / "LICENSE").write_text("A licence.\n")
    return folder


def run(model: Path, out: Path, data: Path, *settings: str, **changes: Any) -> Trained:
    request = Request(str(model), out, data, settings=(*SETTINGS, *settings), **changes)
    return train(request, lambda _row: None, lambda *_: None)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }


def losses(work: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (work / "metrics.jsonl").read_text().splitlines()]


def test_the_result_is_a_hugging_face_folder(model: Path, tmp_path: Path) -> None:
    out = run(model, tmp_path / "out", small.data_file(tmp_path)).folder
    assert {path.name for path in out.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "README.md", "LICENSE",
    }  # fmt: skip


def test_the_labels_are_in_the_config(model: Path, tmp_path: Path) -> None:
    out = run(model, tmp_path / "out", small.data_file(tmp_path)).folder
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"] == {"0": "animal", "1": "number", "2": "text"}
    assert config["architectures"] == ["BertForSequenceClassification"]


def test_the_card_carries_the_licence_of_the_source(model: Path, tmp_path: Path) -> None:
    out = run(model, tmp_path / "out", small.data_file(tmp_path)).folder
    assert "license: apache-2.0" in (out / "README.md").read_text()


def test_the_same_inputs_give_the_same_folder_elsewhere(model: Path, tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        run(model, tmp_path / name / "out", small.data_file(tmp_path / name))
    assert digests(tmp_path / "here" / "out") == digests(tmp_path / "there" / "out")


def test_the_report_says_seed_data_and_versions_and_no_text(model: Path, tmp_path: Path) -> None:
    done = run(model, tmp_path / "out", small.data_file(tmp_path))
    found = json.loads((done.report / "report.json").read_text())
    assert found["seed"] == 0
    assert found["libraries"]["accelerate"]
    [task] = found["tasks"]
    assert task["training_rows"] + task["held_out_rows"] == 60
    assert "fox" not in json.dumps(found)


def test_the_curve_is_one_file_without_links(model: Path, tmp_path: Path) -> None:
    done = run(model, tmp_path / "out", small.data_file(tmp_path))
    curve = (done.report / "curve.svg").read_text()
    assert curve.startswith("<svg")
    assert curve.count("http") == 1  # the namespace


def test_checkpoints_go_when_the_model_is_saved(model: Path, tmp_path: Path) -> None:
    done = run(model, tmp_path / "out", small.data_file(tmp_path))
    assert {path.name for path in done.report.iterdir()} == {
        "report.json", "curve.svg", "metrics.jsonl"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "settings", "kind", "text"),
    [
        ("", (), BadInputError, "no rows in it"),
        ('{"txet": "a"}', (), BadInputError, "no key 'text' among 'txet'"),
        ('{"text": " ", "label": "a"}', (), BadInputError, "an empty text under 'text'"),
        ('{"text": "a", "label": "x"}\n{"text": "b"}', (), BadInputError, "rows.jsonl:2: no label"),
        ('{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}', (), BadInputError,
         "every training row has the label 'x'"),
        ('{"text": "\\ud83d", "label": "x"}', (), BadInputError, "half a character"),
        ('{"text": "a", "label": {}}', (), BadInputError, "a label of type dict"),
        ('{"text": "a", "label": "x"}', ("train.lrr=1",), UsageError, "did you mean 'lr'"),
        ('{"text": "a", "label": "x"}', ("train.batch=0",), UsageError, r"batch = 0 is not in"),
        ('{"text": "a", "label": "x"}', ("train.schedule=cosinus",), UsageError, "'cosine'"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_before_the_first_step(
    rows: str, settings: tuple[str, ...], kind: type[EdgecompileError], text: str,
    model: Path, tmp_path: Path,
) -> None:  # fmt: skip
    file = tmp_path / "rows.jsonl"
    file.write_text(rows, "utf-8")
    with pytest.raises(kind, match=text):
        run(model, tmp_path / "out", file, "train.held_out=0", *settings, task="classification")


def test_a_held_out_label_that_training_has_not_is_refused(model: Path, tmp_path: Path) -> None:
    apart = tmp_path / "apart.jsonl"
    apart.write_text('{"text": "a vegetable", "label": "plant"}\n')
    with pytest.raises(BadInputError, match=r"apart\.jsonl:1: the held-out label 'plant'"):
        run(model, tmp_path / "out", small.data_file(tmp_path), held_out=apart)


def test_training_never_sees_a_held_out_text(model: Path, tmp_path: Path) -> None:
    data = small.data_file(tmp_path)
    apart = tmp_path / "apart.jsonl"
    first = json.loads(data.read_text().splitlines()[0])
    apart.write_text(json.dumps(first | {"text": first["text"].upper() + " "}) + "\n")
    [task] = run(model, tmp_path / "out", data, held_out=apart).summary["tasks"]
    assert (task["dropped"], task["training_rows"]) == (1, 59)


def test_an_output_that_exists_is_refused_without_overwrite(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        run(model, tmp_path / "out", small.data_file(tmp_path))


def test_overwrite_swaps_the_old_model_for_the_new(model: Path, tmp_path: Path) -> None:
    data = small.data_file(tmp_path)
    run(model, tmp_path / "out", data)
    old = digests(tmp_path / "out")["model.safetensors"]
    run(model, tmp_path / "out", data, "train.seed=1", overwrite=True)
    assert digests(tmp_path / "out")["model.safetensors"] != old


def test_a_torch_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"a torch module.*loop\.fit takes any module"):
        run(Path("package.module:build"), tmp_path / "out", small.data_file(tmp_path))


def test_rows_come_from_csv_and_parquet_as_from_json(model: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = small.rows(60)
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    lines = [f'"{row["text"]}",{row["label"]}' for row in rows]
    (tmp_path / "rows.csv").write_text("text,label\n" + "\n".join(lines))
    files = [small.data_file(tmp_path), tmp_path / "rows.csv", tmp_path / "rows.parquet"]
    found = [run(model, tmp_path / f"out{file.suffix}", file) for file in files]
    assert len({done.summary["fingerprint"] for done in found}) == 1


def test_a_run_that_just_ended_can_be_resumed_to_no_effect(model: Path, tmp_path: Path) -> None:
    data = small.data_file(tmp_path)
    run(model, tmp_path / "out", data)
    before = digests(tmp_path)
    run(model, tmp_path / "out", data, resume=True)
    assert digests(tmp_path) == before


def kill(model: Path, folder: Path, kills: int) -> dict[str, int]:
    """What tests/train/killed.py says of that many kills, each run at its end compared."""
    data = small.data_file(folder)
    words = [sys.executable, "-m", "tests.train.killed", model, data, folder, kills]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [str(word) for word in words], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    for number in range(found["runs"]):
        assert losses(folder / f"run-{number}.train") == losses(folder / "whole.train")
        assert digests(folder / f"run-{number}") == digests(folder / "whole")
    return found


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(model: Path, tmp_path: Path) -> None:
    assert kill(model, tmp_path, 20)["kills"] >= 20


def test_trained_weights_differ_from_the_source(model: Path, tmp_path: Path) -> None:
    out = run(model, tmp_path / "out", small.data_file(tmp_path)).folder
    name = "encoder.layer.0.attention.self.query.weight"
    old = load_file(model / "model.safetensors")[name]
    assert not load_file(out / "model.safetensors")[f"bert.{name}"].equal(old)
