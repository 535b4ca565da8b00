"""CLIP from end to end: built, checked, and its vectors beside transformers'."""
from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from edgecompile import bundle, golden, sources, target
from edgecompile.check import Limits, check_bundle
from edgecompile.checks import sealed as step_0
from edgecompile.errors import UnsupportedError, UsageError
from edgecompile.graphs import part_of
from edgecompile.model import Model
from edgecompile.passes.quantize_gptq import QuantizeGptq
from edgecompile.passes.quantize_rtn import QuantizeRtn
from edgecompile.plan import Request, plan
from edgecompile.recipe import PassChoice
from edgecompile.reference import Reference
from edgecompile.runtime import Session, load
from edgecompile.runtime._main import main
from edgecompile.sources.processors import source_processor
from edgecompile.structure import roles
from edgecompile.text import Corpus, Document
from edgecompile.text.parts import Shot
from edgecompile.text.source_tokens import FolderTokens
from tests import tiny

FEW = Limits(texts=128, fidelity_texts=16, repeats=3, threads=2, allow=("no-gain",))
TEXTS = ["the quick brown fox", "a LAZY dog's bone", "", "numbers such as 1234567890! 東京 é"]
LONG = "the fox jumps over the dog, " * 40


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def noise(seed: int, size: tuple[int, int] = (24, 32)) -> NDArray[np.uint8]:
    """uint8 [height, width, 3]: a colour, and noise on it."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (*size, 3)) // 4 + rng.integers(0, 190, 3)
    return values.astype(np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tiny.clip(tmp_path_factory.mktemp("clip") / "m")
    return sources.load(sources.resolve(str(folder)), quiet)


@pytest.fixture(scope="module")
def sealed(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed")
    result = QuantizeRtn(bits=8)(model, tiny.work(folder / "codes"))
    files, out, device = folder / "files", folder / "bundle", target.find("cpu").on("openvino")
    files.mkdir()
    out.mkdir()
    from edgecompile.backends.openvino import Openvino

    export = Openvino().export(result.model, files, quiet)
    passes = ((PassChoice("quantize", "quantize_rtn", {"bits": 8}), result),)
    bundle.assemble(bundle.Contents(result.model, device, "", export, passes), files, out)
    golden.add(out)
    return out


@pytest.fixture(scope="module")
def session(sealed: Path) -> Iterator[Session]:
    with load(sealed, threads=2) as one:
        yield one


@pytest.fixture(scope="module")
def source(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """transformers' model with the weights that the bundle's codes stand for."""
    coded = QuantizeRtn(bits=8)(model, tiny.work(tmp_path_factory.mktemp("again"))).model
    with Reference(model).quantized(coded.quantized) as reference:
        yield reference


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> list[Document]:
    """320 pictures, and as many texts: fewer prove no 1st percentile."""
    folder, found = tmp_path_factory.mktemp("pictures"), []
    for seed in range(320):
        Image.fromarray(noise(seed)).save(folder / f"{seed}.png")
        found.append(Document(f"picture {seed}", None, Shot(folder / f"{seed}.png")))
    return [*found, *tiny.corpus(320).held_out]


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of rows; `b` has length 1 already."""
    return np.asarray((a * b).sum(1))


def test_tensors_are_for_one_graph_each_and_the_scale_for_the_manifest(model: Model) -> None:
    text, vision = (set(part_of(model, name).weights) for name in ("text", "vision"))
    assert not text & vision
    assert set(model.weights) - text - vision == {"logit_scale"}


def test_the_vocabulary_and_the_patches_get_codes(model: Model) -> None:
    found = roles(model)
    assert found["text_model.embeddings.token_embedding.weight"] == "embedding"
    assert found["vision_model.embeddings.patch_embedding.weight"] == "convolution"


def test_the_check_passes(sealed: Path, model: Model, held_out: list[Document]) -> None:
    report = check_bundle(sealed, model, Corpus("t", (), (), tuple(held_out)), FEW, quiet)
    assert report.verdict == "pass", tiny.not_passed(report)
    details = [row.detail for row in report.rows if row.metric == "cosine_p1"]
    assert details == ["pictures", "texts"]
    assert next(row.samples for row in report.rows if row.metric == "recall_at_10") == 640


def test_captions_are_searched_for(sealed: Path, model: Model, held_out: list[Document]) -> None:
    words = [document.text for document in held_out[320:]]
    captioned = tuple(replace(d, label=t) for d, t in zip(held_out[:30], words, strict=False))
    corpus = Corpus("t", (), (), captioned)
    rows = {row.metric: row for row in check_bundle(sealed, model, corpus, FEW, quiet).rows}
    assert rows["recall_at_10"].verdict == "unproven"
    found = rows["retrieval_recall_ratio"]
    assert (found.verdict, found.samples) == ("measured", 30)


def test_a_changed_scale_is_found(sealed: Path, model: Model) -> None:
    manifest = json.loads((sealed / "manifest.json").read_text())
    manifest["similarity"]["logit_scale"] += 0.01
    found = step_0.rows(step_0.decode(sealed, manifest), manifest, model, {})
    verdicts = {row.metric: row.verdict for row in found}
    assert verdicts["logit_scale_differing"] == "fail"
    assert verdicts["codes_differing"] == "pass"


def test_texts_have_the_sources_vectors(session: Session, source: Reference, model: Model) -> None:
    right = source.embed(FolderTokens(model, 77).encode(TEXTS))
    found = session.embed(TEXTS)
    assert found.shape == (4, 48)
    assert cosines(found, right).min() > 0.998
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5


def test_a_text_too_long_is_cut_where_the_source_cuts_it(
    session: Session, source: Reference, model: Model
) -> None:
    ids = session.tokenize([LONG])[0]
    assert (len(ids), ids[-1]) == (77, model.text_config["eos_token_id"])
    right = source.embed(FolderTokens(model, 77).encode([LONG]))
    assert cosines(session.embed([LONG]), right).min() > 0.998


def test_a_text_that_names_the_end_token_ends_there(session: Session) -> None:
    one, two = session.embed(["a fox<|endoftext|> and more", "a fox"])
    assert one @ two > 0.999


@pytest.mark.parametrize(
    ("mode", "size"),
    [("RGB", (24, 32)), ("L", (40, 33)), ("RGBA", (7, 301)), ("P", (1, 1)), ("I;16", (50, 9))],
)
def test_pictures_of_every_kind_have_the_sources_vectors(
    mode: str, size: tuple[int, int], session: Session, source: Reference, tmp_path: Path
) -> None:
    plain = Image.fromarray(noise(3, size))
    if mode == "I;16":
        plain = Image.fromarray(np.full(size, 200, np.uint16))
    file = tmp_path / "a.png"
    (plain if mode == "I;16" else plain.convert(mode)).save(file)
    processor = source_processor(source.model.folder)
    with Image.open(file) as opened:
        pixels = processor([opened.convert("RGB")], return_tensors="np")["pixel_values"]
    right = source.look(np.asarray(pixels, np.float32))
    assert cosines(session.embed_image([file]), right).min() > 0.998


def test_similarity_is_transformers_logits(session: Session, source: Reference) -> None:
    pictures = [noise(1), noise(2, (60, 20))]
    ids = session.tokenize(TEXTS)
    longest = max(map(len, ids))
    padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    pixels = torch.from_numpy(session.prepare(pictures))
    with torch.inference_mode():
        right = source.body(input_ids=padded, attention_mask=mask, pixel_values=pixels)
    found = session.similarity(pictures, TEXTS)
    scale = float(source.body.logit_scale.exp())
    assert np.abs(found - right.logits_per_image.numpy()).max() < 0.01 * scale


def test_labels_share_a_probability(session: Session) -> None:
    found = session.classify_image([noise(1)], ["a fox", "a dog", "numbers"])[0]
    logits = session.similarity([noise(1)], ["a fox", "a dog", "numbers"])[0]
    right = np.exp(logits) / np.exp(logits).sum()
    assert list(found) == ["a fox", "a dog", "numbers"]
    assert list(found.values()) == pytest.approx(right.tolist(), rel=1e-4)


def test_nothing_gives_no_rows(session: Session) -> None:
    assert session.embed([]).shape == session.embed_image([]).shape == (0, 48)
    assert session.similarity([], []).shape == (0, 0)


@pytest.mark.parametrize("labels", [[], ["a", "a"]])
def test_labels_have_to_differ(labels: list[str], session: Session) -> None:
    with pytest.raises(UsageError, match="none of them twice"):
        session.classify_image([noise(1)], labels)


def test_one_picture_is_no_list_of_them(session: Session, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a list of pictures"):
        session.embed_image(str(tmp_path / "a.png"))  # type: ignore[arg-type]


def test_vectors_always_have_length_1(session: Session) -> None:
    with pytest.raises(UsageError, match="normalizes itself"):
        session.embed(TEXTS, normalize=False)


def test_the_bundle_passes_its_self_test(session: Session) -> None:
    results = session.self_test()
    assert len(results) == 6
    assert all(one.passed for one in results)


def test_many_batches_give_each_picture_its_own_row(session: Session) -> None:
    pictures = [noise(seed) for seed in range(19)]
    together = session.embed_image(pictures)
    alone = np.concatenate([session.embed_image([one]) for one in pictures])
    assert cosines(together, alone).min() > 0.999


def test_the_command_line_takes_a_text_a_picture_or_labels(
    sealed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(noise(5)).save(tmp_path / "a.png")
    file = str(tmp_path / "a.png")
    assert [main(sealed, given) for given in (["a fox"], [file], [file, "a", "b", "c"])] == [0] * 3
    text, picture, labels = map(json.loads, capfd.readouterr().out.splitlines())
    assert len(text["embedding"]) == len(picture["embedding"]) == 48
    assert set(labels) == {"a", "b", "c"}


def test_a_text_longer_than_any_files_name_is_a_text(
    sealed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(sealed, [LONG * 9]) == 0
    assert "embedding" in capfd.readouterr().out


def test_more_token_ids_than_positions_are_refused(session: Session) -> None:
    with pytest.raises(UsageError):
        session.embed_ids([[5] * 100])


def test_labels_without_a_picture_are_refused(
    sealed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(sealed, ["no such file.png", "a fox"]) == 2
    assert "a picture's file before its labels" in capfd.readouterr().err


def test_calibration_says_what_to_take_instead(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"quantize.method=rtn"):
        QuantizeGptq()(model, tiny.work(tmp_path, tiny.corpus()))


def test_llama_cpp_is_refused_with_what_is_possible(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"cpu.*or") as refused:
        plan(Request(str(model.folder), ("gguf",), tmp_path))
    assert refused.value.exit_code == 3
