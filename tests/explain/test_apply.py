"""Changes of recipe files: what a person wrote stays, and a rebuild uses what was changed."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgecompile import recipe as recipe_shelf
from edgecompile.build import build
from edgecompile.errors import UsageError
from edgecompile.explain import Options, Subject, open_bundle
from edgecompile.explain.apply import apply, overrides, toml
from edgecompile.plan import Request, plan
from tests import tiny

UP = "model.layers.0.mlp.up_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
HEAD = 'task = "text-generation"\n\n[source]\npath = "../../tiny-llama"\n\n'


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def subject(model: str, **options: Any) -> Subject:
    request = Request(model, ("null",), Path("dist"), overwrite=True, **options)
    bundle = next(iter(build(plan(request), quiet))).bundle
    return open_bundle(Options(bundle), quiet)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    tiny.llama(folder / "tiny-llama")
    return folder


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def recipe(name: str, text: str) -> Path:
    file = Path("models") / name / "recipe.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(HEAD + text)
    return file


def bits(model: str, **options: Any) -> Mapping[str, int]:
    """What a rebuild gives each tensor."""
    request = Request(model, ("null",), Path("again"), overwrite=True, **options)
    return {name: scheme.bits for name, scheme in plan(request).targets[0].schemes.items()}


def test_comments_and_order_of_a_recipe_stay() -> None:
    text = (
        '# by hand\n[quantize]\nmethod = "rtn"   # fast\nbits = 4\n\n'
        f'[quantize.overrides]\n"*.v_proj.weight" = 8  # values\n"{UP}" = 4  # why?\n\n# end\n'
    )
    file = recipe("commented", text)
    apply(subject("commented"), {UP: 8})
    assert file.read_text() == HEAD + text.replace(f'"{UP}" = 4', f'"{UP}" = 8')


def test_a_recipe_without_overrides_gets_the_tasks_own_too() -> None:
    file = recipe("plain", '[quantize]\nmethod = "rtn"\n')
    apply(subject("plain"), {DOWN: 8})
    expected = f'overrides = {{"*.v_proj.weight" = 8, "{DOWN}" = 8}}'
    assert expected in file.read_text()
    assert bits("plain")[DOWN] == 8
    assert bits("plain")["model.layers.1.self_attn.v_proj.weight"] == 8


def test_a_recipe_without_a_quantize_table_gets_one() -> None:
    recipe("bare", "")
    apply(subject("bare", settings=("quantize.method=rtn",)), {DOWN: 8})
    assert bits("bare")[DOWN] == 8


def test_a_later_pattern_that_fits_too_does_not_win() -> None:
    table = f'overrides = {{ "{UP}" = 8, "*.mlp.*" = 4 }}'
    recipe("shadowed", f'[quantize]\nmethod = "rtn"\nbits = 4\n{table}\n')
    apply(subject("shadowed"), {UP: 8})
    assert bits("shadowed")[UP] == 8


def test_a_variant_is_changed_and_the_recipe_itself_is_not() -> None:
    text = '[quantize]\nmethod = "rtn"\nbits = 8\n\n[variants.small.quantize]\nbits = 4  # less\n'
    file = recipe("varied", text)
    made = apply(subject("varied", variant="small"), {DOWN: 8})
    assert file.read_text().startswith(HEAD + text)
    assert bits("varied", variant="small")[DOWN] == 8
    assert "--variant small" in made.command


def test_what_set_said_in_the_build_is_in_the_command() -> None:
    recipe("told", '[quantize]\nmethod = "rtn"\nbits = 8\n')
    made = apply(subject("told", settings=("quantize.bits=4",)), {DOWN: 8})
    assert "--set quantize.bits=4" in made.command


def test_floats_are_asked_for_with_16_bits() -> None:
    recipe("floats", '[quantize]\nmethod = "rtn"\nbits = 8\n')
    apply(subject("floats"), {DOWN: 16})
    assert DOWN not in bits("floats")


def test_what_was_allocated_is_taken_from_the_allocation() -> None:
    text = '[quantize]\nmethod = "rtn"\nbits = 4\n\n[allocate_bits]\nbits_per_weight = 5.5\n'
    text += "texts = 2\ncalibrated = false\n"
    recipe("allocated", text)
    found = subject("allocated")
    few = next(name for name, width in found.bits.items() if width == 4)
    apply(found, {few: 8})
    again = subject("allocated")
    assert again.bits[few] == 8


def test_a_recipe_that_would_not_be_followed_stays_as_it_was() -> None:
    file = recipe("skipping", f'[quantize]\nmethod = "rtn"\nbits = 8\nskip = ["{DOWN}"]\n')
    before = file.read_text()
    with pytest.raises(UsageError, match="would still have 16 bits"):
        apply(subject("skipping"), {DOWN: 8})
    assert file.read_text() == before


def test_a_new_recipe_that_fails_is_taken_back(here: Path) -> None:
    tiny.llama(here / "unknown-llama")
    found = subject("unknown-llama", settings=("quantize.method=rtn", f'quantize.skip=["{DOWN}"]'))
    with pytest.raises(UsageError):
        apply(found, {DOWN: 8})
    assert not (here / "models/unknown-llama").exists()


@pytest.mark.slow
def test_a_model_of_the_shipped_shelf_gets_a_copy_of_its_recipe(here: Path) -> None:
    shipped = recipe_shelf.names()["all-minilm-l6-v2"]
    before = shipped.read_text()
    name = "encoder.layer.0.output.dense.weight"
    made = apply(subject("all-minilm-l6-v2"), {name: 16})
    assert made.created
    assert made.file.read_text().replace(f'overrides = {{"{name}" = 16}}\n', "") == before
    assert shipped.read_text() == before
    assert name not in bits("all-minilm-l6-v2")


def test_the_change_is_told_as_toml_that_can_be_pasted() -> None:
    recipe("pasted", '[quantize]\nmethod = "rtn"\nbits = 4\n')
    found = subject("pasted")
    assert toml(found, {DOWN: 8}) == (
        f'[quantize]\noverrides = {{ "*.v_proj.weight" = 8, "{DOWN}" = 8 }}'
    )
    assert list(overrides(found, {DOWN: 8})) == ["*.v_proj.weight", DOWN]
