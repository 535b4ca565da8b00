"""A torch module of pictures, from its file to labels out of the sealed bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecompile import sources
from edgecompile.build import BuildResult, build
from edgecompile.errors import BadInputError, MissingLibraryError, UsageError
from edgecompile.plan import Request, plan
from edgecompile.reference import Reference
from edgecompile.report import CheckReport
from edgecompile.runtime import load

MODULE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 64), nn.ReLU(), nn.Linear(64, 3))
    module[3].weight.data *= 20
    pictures = {"height": 16, "width": 16, "resize": "exact", "resize_height": 16,
                "resize_width": 16, "resample": "bilinear", "crop": "none", "rescale": 1 / 255,
                "mean": [0.5] * 3, "std": [0.5] * 3, "channels": "RGB", "layout": "NCHW"}
    card = {"task": "image-classification", "labels": ["un", "deux", "trois"],
            "pictures": pictures, "licence": "mit"}
    return module, (torch.zeros(1, 3, 16, 16),), card
"""


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures of noise and plain colours."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(60):
        rng = np.random.default_rng(seed)
        values = rng.integers(0, 256, (24, 32, 3)) // 4 + rng.integers(0, 190, 3)
        Image.fromarray(values.astype(np.uint8)).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def built(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    folder = tmp_path_factory.mktemp("module")
    (folder / "seen.py").write_text(MODULE)
    request = Request(f"{folder}/seen.py:build", ("cpu",), folder / "dist", data=pictures)
    return next(build(plan(request), quiet))


def row(report: CheckReport, metric: str) -> str:
    return next(one.verdict for one in report.rows if one.metric == metric)


def test_few_pictures_prove_no_agreement(built: BuildResult) -> None:
    assert row(built.report, "class_agreement") == "unproven"


def test_pictures_are_prepared_as_the_card_says(built: BuildResult) -> None:
    assert row(built.report, "picture_error") == "pass"


def test_the_export_is_compared_with_the_same_codes(built: BuildResult) -> None:
    assert row(built.report, "export_cosine_min") == "pass"


def test_the_bundle_gives_the_sources_labels(built: BuildResult, pictures: Path) -> None:
    source = sources.resolve(f"{built.bundle.parents[1]}/seen.py:build")
    model = sources.load(source, quiet)
    assert model.pictures is not None
    files = sorted(pictures.glob("*.png"))[:8]
    scores = Reference(model).look(model.pictures.prepare(files))
    with load(built.bundle) as session:
        answers = session.classify_image(files)
    assert [max(a, key=a.get) for a in answers] == [  # type: ignore[arg-type]
        ("un", "deux", "trois")[at] for at in scores.argmax(1)
    ]


def test_a_bundle_of_pictures_passes_its_self_test(built: BuildResult) -> None:
    with load(built.bundle) as session:
        assert all(one.passed for one in session.self_test())


def test_a_bundles_own_command_line_takes_a_picture(built: BuildResult, pictures: Path) -> None:
    command = [sys.executable, "-IB", str(built.bundle / "runtime"), str(pictures / "0.png")]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert set(json.loads(found.stdout)) == {"un", "deux", "trois"}


def test_no_picture_is_refused(built: BuildResult) -> None:
    with load(built.bundle) as session, pytest.raises(UsageError, match="none"):
        session.classify_image([])


def test_the_manifests_licence_is_the_cards(built: BuildResult) -> None:
    manifest = json.loads((built.bundle / "manifest.json").read_text())
    assert manifest["licence"]["id"] == "mit"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('"labels": ["un", "deux", "trois"],', "labels and pictures"),
        ('"task": "image-classification"', "card"),
    ],
)
def test_a_card_that_lacks_something_is_refused(change: str, said: str, tmp_path: Path) -> None:
    other = '"task": "embedding"' if "task" in change else ""
    (tmp_path / "lacks.py").write_text(MODULE.replace(change, other))
    with pytest.raises(UsageError, match=said):
        sources.describe(sources.resolve(f"{tmp_path}/lacks.py:build"))


def test_a_picture_setting_of_a_card_is_refused_by_the_functions_name(tmp_path: Path) -> None:
    (tmp_path / "lacks.py").write_text(MODULE.replace('"crop": "none"', '"crop": "some"'))
    with pytest.raises(BadInputError, match=r"lacks\.py:build: card: pictures"):
        sources.describe(sources.resolve(f"{tmp_path}/lacks.py:build"))


def test_a_function_that_lacks_a_library_says_which(tmp_path: Path) -> None:
    (tmp_path / "lacks.py").write_text("def build():\n    import no_such_library\n")
    with pytest.raises(MissingLibraryError, match="no_such_library"):
        sources.describe(sources.resolve(f"{tmp_path}/lacks.py:build"))


def test_text_is_no_data_for_pictures(tmp_path: Path) -> None:
    (tmp_path / "seen.py").write_text(MODULE)
    (tmp_path / "text.txt").write_text("some text")
    request = Request(f"{tmp_path}/seen.py:build", ("cpu",), tmp_path, data=tmp_path / "text.txt")
    with pytest.raises(UsageError, match="folder of pictures"):
        plan(request)
