"""Models of two inputs: encoder-decoders, of text and of sound, and texts with pictures."""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from edgecompile.build import BuildResult, build
from edgecompile.cli import cli
from edgecompile.errors import UsageError
from edgecompile.explain import Explanation, Options, explain, open_bundle
from edgecompile.explain.attention import Attention
from edgecompile.explain.files import to_json
from edgecompile.explain.saliency import Saliency
from edgecompile.plan import Request, plan
from tests import tiny

T5, CLIP, WHISPER = "text2text-generation", "image-text-embedding", "automatic-speech-recognition"
LOUDER = 12  # or the answers of an untrained T5 are all but even, and any noise turns them over


def t5(folder: Path) -> Path:
    """A T5 that prefers some tokens."""
    tiny.t5(folder)
    weights = load_file(folder / "model.safetensors")
    weights["shared.weight"] *= LOUDER
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


MAKE: dict[str, Callable[[Path], Path]] = {T5: t5, CLIP: tiny.clip, WHISPER: tiny.whisper}
RUINED = {
    T5: "decoder.block.1.layer.1.EncDecAttention.v.weight",
    CLIP: "vision_model.encoder.layers.1.mlp.fc2.weight",
    WHISPER: "model.decoder.layers.0.fc1.weight",
}
RECIPE = """description = "ruined on purpose"
task = "{task}"

[source]
path = "../../{task}"

[quantize]
method = "planted"
bits = 8
overrides = {{ "{ruined}" = 2 }}  # why not

[check.limits]
{limit[0]} = {limit[1]}
"""
LIMITS = {T5: ("kl_mean", 0.002), CLIP: ("cosine_mean", 0.999), WHISPER: ("kl_mean", 0.0001)}
NAMES = {T5: "ruined-t5", CLIP: "ruined-clip", WHISPER: "ruined-whisper"}
FEW = ("--tokens", "128", "--texts", "16", "--evaluations", "24")


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with 60 pictures, and models and a shelf of their own."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "pictures").mkdir()
    for seed in range(60):
        values = np.random.default_rng(seed).integers(0, 256, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(values).save(folder / "pictures" / f"{seed}.png")
    for task, make in MAKE.items():
        make(folder / task)
        (folder / "models" / NAMES[task]).mkdir(parents=True)
        recipe_file(folder, task).write_text(recipe(task))
    return folder


def recipe(task: str) -> str:
    return RECIPE.format(task=task, ruined=RUINED[task], limit=LIMITS[task])


def recipe_file(folder: Path, task: str) -> Path:
    return folder / "models" / NAMES[task] / "recipe.toml"


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def data_of(task: str) -> Path | None:
    return Path("pictures") if task == CLIP else None


def built(task: str, target: str, out: str, name: str = "") -> BuildResult:
    request = Request(
        name or NAMES[task], (target,), Path(out), overwrite=True, data=data_of(task)
    )  # fmt: skip
    return next(iter(build(plan(request), quiet)))


@pytest.fixture(scope="module")
def ruined(place: Path) -> dict[str, BuildResult]:
    """Bundles with one tensor on 2 bits, without an engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return {task: built(task, "null", "dist") for task in MAKE}


def explained(bundle: Path, task: str) -> Explanation:
    limits = dict([LIMITS[task]])  # no engine has judged them
    options = Options(bundle, None, data_of(task), 16, 128, 24, limits=limits)
    return explain(open_bundle(options, quiet), quiet)


@pytest.fixture(scope="module")
def found(place: Path, ruined: dict[str, BuildResult]) -> dict[str, Explanation]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return {task: explained(one.bundle, task) for task, one in ruined.items()}


def parts(found: Explanation) -> dict[str, Attention]:
    assert not isinstance(found.attention, str)
    return {one.name: one for one in found.attention}


def saliency(found: Explanation) -> Saliency:
    assert not isinstance(found.saliency, str)
    return found.saliency


@pytest.mark.parametrize("task", MAKE)
def test_the_ruined_tensor_is_named_first(task: str, found: dict[str, Explanation]) -> None:
    tensors = [row.name for row in found[task].restored if row.kind == "tensor"]
    assert tensors[0] == RUINED[task]


@pytest.mark.parametrize("task", MAKE)
def test_the_layer_that_it_is_in_is_named_first(
    task: str, found: dict[str, Explanation]
) -> None:
    assert RUINED[task].startswith(found[task].restored[0].name + ".")


@pytest.mark.parametrize("task", MAKE)
def test_the_ruined_layer_has_the_least_signal(task: str, found: dict[str, Explanation]) -> None:
    worst = min(found[task].noise, key=lambda row: row.alone_db)
    assert worst.tensor == RUINED[task]


@pytest.mark.parametrize("task", MAKE)
def test_the_change_is_eight_bits_for_the_ruined_tensor_alone(
    task: str, found: dict[str, Explanation]
) -> None:
    assert dict(found[task].change.bits) == {RUINED[task]: 8}


@pytest.mark.parametrize("task", [T5, WHISPER])
def test_an_answer_is_judged_as_its_check_judges_it(
    task: str, found: dict[str, Explanation]
) -> None:
    wanted = {"kl_mean", "kl_p999", "top1_agreement", "perplexity_ratio"}
    assert set(found[task].now.metrics) == wanted


def test_vectors_of_the_worse_kind_are_judged(found: dict[str, Explanation]) -> None:
    now = found[CLIP].now
    assert set(now.metrics) == {"cosine_mean", "cosine_p1"}
    assert now.metrics["cosine_mean"] < 1 - now.divergence


def test_the_text_has_nothing_of_what_a_ruined_picture_tower_lost(
    found: dict[str, Explanation],
) -> None:
    rows = [row for row in found[CLIP].noise if row.layer.startswith("text_model")]
    assert min(row.cumulative_db for row in rows) > 30


@pytest.mark.parametrize("task", [T5, WHISPER])
def test_attention_of_both_halves_and_between_them_is_compared(
    task: str, found: dict[str, Explanation]
) -> None:
    assert list(parts(found[task])) == [
        "encoder self-attention", "decoder self-attention", "cross-attention",
    ]  # fmt: skip


def test_attention_of_both_towers_is_compared(found: dict[str, Explanation]) -> None:
    shapes = {name: one.divergence.shape for name, one in parts(found[CLIP]).items()}
    assert shapes == {"text self-attention": (2, 4), "picture self-attention": (3, 4)}


def test_attention_before_the_ruined_layer_is_hardly_off(found: dict[str, Explanation]) -> None:
    cross = parts(found[T5])["cross-attention"].divergence.mean(1)
    assert cross[2] > 10 * cross[0]


def test_maps_between_the_halves_have_answers_downwards(found: dict[str, Explanation]) -> None:
    part = parts(found[T5])["cross-attention"]
    assert part.maps[0].source.shape == (len(part.tokens), len(part.keys))


def test_a_sounds_maps_are_drawn_in_blocks_that_keep_their_sum(
    found: dict[str, Explanation],
) -> None:
    part = parts(found[WHISPER])["encoder self-attention"]
    assert part.maps[0].source.shape == (32, 32)
    assert np.allclose(part.maps[0].source.sum(1), 1, atol=1e-5)


def test_each_part_has_maps(found: dict[str, Explanation]) -> None:
    assert all(one.maps for task in MAKE for one in parts(found[task]).values())


def test_saliency_is_of_the_source_and_of_the_answer_so_far(
    found: dict[str, Explanation],
) -> None:
    one = saliency(found[T5])
    assert one.source.sum() == pytest.approx(1)
    assert 0 < one.answer < len(one.source) == len(one.tokens)
    assert one.source[: -one.answer].sum() > 0


def test_saliency_of_a_text_beside_pictures_is_of_its_tokens(
    found: dict[str, Explanation],
) -> None:
    one = saliency(found[CLIP])
    assert 0 < len(one.source) == len(one.tokens) <= 32


def test_what_a_sound_is_judged_by_is_not_measured(found: dict[str, Explanation]) -> None:
    assert "frames of a sound count is not measured" in str(found[WHISPER].saliency)


def test_what_a_picture_is_judged_by_is_not_measured(found: dict[str, Explanation]) -> None:
    assert any("picture's vector hangs on is not measured" in one for one in found[CLIP].notes)


def test_a_shared_table_has_a_row_for_each_place_that_reads_it(
    found: dict[str, Explanation],
) -> None:
    layers = [row.layer for row in found[T5].noise if row.tensor == "shared.weight"]
    assert layers == ["encoder.embed_tokens", "decoder.embed_tokens", "lm_head"]


@pytest.mark.parametrize("task", MAKE)
def test_the_file_is_plain_json(task: str, found: dict[str, Explanation]) -> None:
    text = json.dumps(to_json(found[task]), allow_nan=False)
    assert len(json.loads(text)["attention"]["parts"]) == len(parts(found[task]))


def test_a_text_of_one_word_has_no_second_half_to_answer_with(
    ruined: dict[str, BuildResult],
) -> None:
    options = Options(ruined[T5].bundle, tokens=32, evaluations=2, text="word")
    subject = open_bundle(options, quiet)
    with pytest.raises(UsageError, match="--text: 1 words"):
        explain(subject, quiet)


def test_a_text_that_a_model_of_sound_cannot_read_is_said_not_to_be_shown(
    ruined: dict[str, BuildResult],
) -> None:
    options = Options(ruined[WHISPER].bundle, texts=1, evaluations=2, text="my own secret words")
    found = explain(open_bundle(options, quiet), quiet)
    assert any("--text was not shown" in note for note in found.notes)


def test_tokens_of_the_users_own_captions_are_not_shown(
    ruined: dict[str, BuildResult], here: Path
) -> None:
    names = sorted(file.name for file in (here / "pictures").iterdir())
    rows = [f"{name},my own secret words" for name in names]
    table = here / "pictures" / "metadata.csv"
    table.write_text("\n".join(["file_name,text", *rows]))
    try:
        options = Options(ruined[CLIP].bundle, data=Path("pictures"), texts=2, evaluations=2)
        found = explain(open_bundle(options, quiet), quiet)
    finally:
        table.unlink()
    assert saliency(found).tokens == ()
    assert "secret" not in json.dumps(to_json(found))


def applied(bundle: Path, task: str) -> None:
    extra = ["--data", "pictures"] if task == CLIP else []
    limit = ["--limit", "{}={}".format(*LIMITS[task])]
    result = CliRunner().invoke(cli, ["explain", str(bundle), *FEW, *extra, *limit, "--apply"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("task", MAKE)
def test_apply_changes_the_recipe(
    task: str, ruined: dict[str, BuildResult], here: Path
) -> None:
    applied(ruined[task].bundle, task)
    assert recipe_file(here, task).read_text() == recipe(task).replace("= 2 }  #", "= 8 }  #")


@pytest.mark.slow
def test_an_encoder_decoder_that_its_check_fails_is_mended_and_passes(here: Path) -> None:
    recipe_file(here, T5).write_text(recipe(T5))
    one = built(T5, "cpu", "dist")
    assert one.report.verdict == "fail"
    rows = {(row.step, row.metric): row.value for row in one.report.rows}
    now = explained(one.bundle, T5).now
    assert now.divergence == pytest.approx(rows["quality", "kl_mean"], rel=0.5)
    applied(one.bundle, T5)
    page = (here / "dist/ruined-t5-cpu.rejected.report/report.html").read_text("utf-8")
    assert "<h3>cross-attention</h3>" in page
    again = built(T5, "cpu", "mended", f"models/{NAMES[T5]}/recipe.toml")
    assert again.report.verdict == "pass"
