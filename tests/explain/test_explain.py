"""The whole way: a layer ruined by its recipe fails the check, is named, and is mended."""
from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgecompile.build import BuildResult, build
from edgecompile.cli import cli
from edgecompile.errors import UnsupportedError
from edgecompile.explain import Explanation, Options, explain, open_bundle
from edgecompile.explain.files import to_json
from edgecompile.plan import Request, plan
from edgecompile.recipe import read
from tests import tiny

RUINED = "model.layers.0.mlp.down_proj.weight"
RECIPE = f"""description = "a tiny decoder"  # mine
task = "text-generation"

[source]
path = "../../tiny-llama"

[quantize]
method = "planted"  # 2 bits somewhere
bits = 8
overrides = {{ "*.v_proj.weight" = 8, "{RUINED}" = 2 }}  # why not

# the end
"""


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def built(model: str, *targets: str, out: str = "dist", **options: object) -> list[BuildResult]:
    request = Request(model, targets, Path(out), overwrite=True, **options)  # type: ignore[arg-type]
    return list(build(plan(request), quiet))


def explained(bundle: Path, **options: object) -> Explanation:
    few = {"tokens": 512, "texts": 16, "evaluations": 40} | options
    return explain(open_bundle(Options(bundle, **few), quiet), quiet)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a model and a shelf of its own."""
    folder = tmp_path_factory.mktemp("work")
    tiny.llama(folder / "tiny-llama")
    (folder / "models" / "ruined").mkdir(parents=True)
    return folder


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.fixture(scope="module")
def ruined(place: Path) -> BuildResult:
    """A bundle with one layer on 2 bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        (place / "models/ruined/recipe.toml").write_text(RECIPE)
        return built("ruined", "cpu")[0]


@pytest.fixture(scope="module")
def found(ruined: BuildResult, place: Path) -> Explanation:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return explained(ruined.bundle)


def test_a_layer_on_two_bits_fails_the_check(ruined: BuildResult) -> None:
    assert ruined.report.verdict == "fail"
    assert ruined.bundle.name == "ruined-cpu.rejected"


def test_the_ruined_tensor_is_named_first(found: Explanation) -> None:
    tensors = [row.name for row in found.restored if row.kind == "tensor"]
    assert tensors[0] == RUINED


def test_the_layer_that_it_is_in_is_named_first(found: Explanation) -> None:
    assert found.restored[0].name == "model.layers.0"


def test_the_ruined_layer_has_the_least_signal(found: Explanation) -> None:
    worst = min(found.noise, key=lambda row: row.alone_db)
    assert worst.tensor == RUINED


def test_a_layer_behind_a_ruined_one_is_noisy_only_cumulatively(found: Explanation) -> None:
    behind = next(row for row in found.noise if row.layer == "model.layers.1.self_attn.q_proj")
    assert behind.alone_db > behind.cumulative_db + 10


def test_restoring_all_would_win_back_the_whole_divergence(found: Explanation) -> None:
    layers = sum(row.gain for row in found.restored if row.kind == "layer")
    assert layers == pytest.approx(found.now.divergence, rel=0.2)


def test_the_change_is_eight_bits_for_the_ruined_tensor_alone(found: Explanation) -> None:
    assert dict(found.change.bits) == {RUINED: 8}


def test_what_the_change_costs_is_what_the_target_writes_more(found: Explanation) -> None:
    # Codes of 4 bits become 8, and 4 scales a row one, in the engine's float32.
    assert found.change.cost == 64 * 128 // 2 - 64 * 3 * 4


def test_the_change_keeps_the_other_overrides(found: Explanation) -> None:
    assert found.toml == (
        f'[quantize]\noverrides = {{ "*.v_proj.weight" = 8, "{RUINED}" = 8 }}'
    )


def test_attention_of_every_head_is_compared(found: Explanation) -> None:
    assert not isinstance(found.attention, str)
    assert found.attention[0].divergence.shape == (2, 4)
    assert bool((found.attention[0].divergence > 0).all())
    assert found.attention[0].divergence.max() <= math.log(2)


def test_attention_after_the_ruined_layer_is_further_off(found: Explanation) -> None:
    assert not isinstance(found.attention, str)
    assert found.attention[0].divergence[1].mean() > found.attention[0].divergence[0].mean()


def test_maps_are_distributions_over_at_most_32_tokens(found: Explanation) -> None:
    assert not isinstance(found.attention, str)
    for shown in found.attention[0].maps:
        assert shown.source.shape == shown.found.shape == (32, 32)
        assert np.allclose(shown.source.sum(1), 1, atol=1e-5)


def test_saliency_is_a_share_of_each_token(found: Explanation) -> None:
    assert not isinstance(found.saliency, str)
    assert found.saliency.source.sum() == pytest.approx(1)
    assert -1 <= found.saliency.correlation <= 1


def test_tokens_of_the_built_in_text_are_shown(found: Explanation) -> None:
    assert not isinstance(found.saliency, str)
    assert len(found.saliency.tokens) == 32


def test_the_file_is_plain_json(found: Explanation) -> None:
    text = json.dumps(to_json(found), allow_nan=False)
    assert json.loads(text)["change"]["bits"] == {RUINED: 8}


def test_apply_mends_the_recipe_and_the_rebuilt_bundle_passes(
    ruined: BuildResult, here: Path
) -> None:
    result = CliRunner().invoke(cli, ["explain", str(ruined.bundle), "--tokens", "512", "--apply"])
    assert result.exit_code == 0, result.output
    file = here / "models/ruined/recipe.toml"
    assert file.read_text() == RECIPE.replace(f'"{RUINED}" = 2', f'"{RUINED}" = 8')
    folder = here / "dist/ruined-cpu.rejected.report"
    assert (folder / "explain.json").is_file()
    assert "<h2>Explained</h2>" in (folder / "report.html").read_text("utf-8")
    again = built("models/ruined/recipe.toml", "cpu", out="mended")[0]
    assert again.report.verdict == "pass"


def test_a_bundle_that_passes_needs_no_change(here: Path) -> None:
    bundle = built("tiny-llama", "cpu", settings=("quantize.method=rtn", "quantize.bits=8",
                                                  "quantize.overrides={}"))[0].bundle  # fmt: skip
    assert explained(bundle, evaluations=4).change.bits == {}


def test_a_stricter_limit_asks_for_more_bits_where_the_recipe_has_less(here: Path) -> None:
    settings = ("quantize.method=rtn", "quantize.bits=4")
    bundle = built("tiny-llama", "gguf", settings=settings)[0].bundle
    limits = {"kl_mean": 0.01}
    change = explained(bundle, limits=limits).change
    assert change.predicted is not None
    assert 0 < len(change.bits) < 14
    assert change.predicted.metrics["kl_mean"] < 0.01


def test_a_model_without_a_recipe_gets_one_with_the_options_it_was_built_with(here: Path) -> None:
    settings = ("quantize.method=rtn", "quantize.bits=4", "quantize.scale_search=false")
    tiny.llama(here / "bare")
    bundle = built("bare", "cpu", settings=settings)[0].bundle
    arguments = ["explain", str(bundle), "--tokens", "256", "--limit", "kl_mean=0.01", "--apply"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    recipe = read(here / "models/bare/recipe.toml")
    assert recipe.quantize["scale_search"] is False
    assert recipe.quantize["method"] == "rtn"
    assert next(iter(recipe.quantize["overrides"])) == "*.v_proj.weight"  # the task's own
    assert "--set" not in result.output


def test_layers_are_restored_whole_where_scales_moved_between_tensors(here: Path) -> None:
    settings = ("quantize.method=awq", "quantize.bits=4", "quantize.texts=4")
    bundle = built("tiny-llama", "cpu", settings=settings)[0].bundle
    found = explained(bundle, evaluations=8)
    assert not any("layers" in row.name for row in found.restored if row.kind == "tensor")
    assert all(row.gain > 0 for row in found.restored if row.name.startswith("model.layers"))


def test_tokens_of_the_users_own_text_are_not_shown(ruined: BuildResult) -> None:
    found = explained(ruined.bundle, text="my own secret words", evaluations=2)
    assert not isinstance(found.saliency, str)
    assert found.saliency.tokens == ()
    assert "secret" not in json.dumps(to_json(found))


def test_tokens_of_the_users_own_text_are_shown_when_asked_for_by_name(
    ruined: BuildResult,
) -> None:
    found = explained(ruined.bundle, text="the quick fox", with_text=True, evaluations=2)
    assert not isinstance(found.saliency, str)
    assert "".join(found.saliency.tokens).replace("Ġ", " ") == "the quick fox"


def test_an_encoder_of_embeddings_is_explained(here: Path) -> None:
    tiny.bert(here / "tiny-bert")
    settings = ("quantize.bits=4",)
    found = explained(built("tiny-bert", "cpu", settings=settings)[0].bundle)
    assert set(found.now.metrics) == {"cosine_mean", "cosine_p1", "rank_correlation"}
    assert not isinstance(found.attention, str)
    assert not isinstance(found.saliency, str)


def test_a_bundle_without_codes_is_refused(here: Path) -> None:
    settings = ("quantize.method=none",)
    bundle = built("tiny-llama", "cpu", settings=settings, allow=("no-gain",))[0].bundle
    with pytest.raises(UnsupportedError, match="all its tensors are the source's"):
        explained(bundle)


def test_types_of_an_engine_are_measured_and_no_recipe_is_changed(here: Path) -> None:
    tiny.llama(here / "wide", hidden_size=256, intermediate_size=256)
    settings = ("target.options.types=Q4_K_S", "quantize.method=none")
    found = explained(built("wide", "gguf", settings=settings)[0].bundle, evaluations=8)
    assert found.now.divergence > 0
    assert "llama.cpp's own" in found.change.why


def test_a_decoder_made_smaller_is_compared_with_what_was_quantized(here: Path) -> None:
    settings = ("quantize.method=rtn", "prune.method=l2", "prune.ratio=0.2")
    bundle = built("tiny-llama", "null", settings=settings)[0].bundle
    found = explained(bundle, evaluations=4)
    assert any("smaller model" in note for note in found.notes)
    assert found.now.divergence < 0.5
