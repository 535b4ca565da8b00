"""TOML tables become frozen dataclasses, and say all that is wrong with them at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecompile import recipe, registry, target
from edgecompile.config import apply_setting, make, parse_value, read_toml
from edgecompile.errors import UsageError
from edgecompile.passes.quantize_rtn import QuantizeRtn


def test_an_unknown_key_names_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="did you mean 'bits'"):
        make(QuantizeRtn, {"bist": 4}, "recipe")


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(UsageError, match=r"'bist'.*group_size = 'x' is not int"):
        make(QuantizeRtn, {"bist": 4, "group_size": "x"}, "recipe")


def test_a_value_outside_a_choice_shows_the_choice() -> None:
    with pytest.raises(UsageError, match="bits = 5 is not one of 4, 8"):
        make(QuantizeRtn, {"bits": 5}, "recipe")


def test_broken_toml_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text("a = \n")
    with pytest.raises(UsageError, match="line 1"):
        read_toml(file)


@pytest.mark.parametrize(
    ("text", "value"), [("4", 4), ("true", True), ("cpu", "cpu"), ("[1]", [1])]
)
def test_a_set_value_is_toml_where_it_can_be(text: str, value: object) -> None:
    assert parse_value(text) == value


def test_set_reaches_into_tables() -> None:
    table: dict[str, object] = {"quantize": {"bits": 8}}
    apply_setting(table, "quantize.bits=4")
    assert table == {"quantize": {"bits": 4}}


def test_set_without_a_value_is_refused() -> None:
    with pytest.raises(UsageError, match="not KEY=VALUE"):
        apply_setting({}, "quantize.bits")


def test_a_misspelt_recipe_section_names_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="did you mean 'quantize'"):
        recipe.parse("m", Path(), {"quantise": {"bits": 4}})


def test_a_recipe_in_the_current_folder_has_that_folders_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert recipe.read(Path("recipe.toml")).name == tmp_path.name


def test_a_variant_changes_only_what_it_names() -> None:
    table = {
        "quantize": {"bits": 4, "embedding_bits": 8},
        "variants": {"a": {"quantize": {"bits": 8}}},
    }
    assert recipe.parse("m", Path(), table, "a").quantize == {"bits": 8, "embedding_bits": 8}


def test_an_unknown_variant_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="known: a"):
        recipe.parse("m", Path(), {"variants": {"a": {}}}, "b")


def test_the_recipe_has_the_last_word_over_target_and_default() -> None:
    made = recipe.parse("m", Path(), {"quantize": {"bits": 4}})
    (choice,) = recipe.pass_choices(made, "embedding", {"bits": 8, "group_size": 32})
    assert choice.options == {"bits": 4, "group_size": 32}


def test_quantize_can_be_switched_off() -> None:
    made = recipe.parse("m", Path(), {"quantize": {"method": "none"}})
    assert recipe.pass_choices(made, "embedding", {}) == ()


def test_a_table_of_prune_stands_beside_its_method_and_runs_first() -> None:
    table = {"prune": {"method": "gradient", "ratio": 0.5, "vocab": {"min_count": 2}}}
    table |= {"quantize": {"method": "none"}}
    choices = recipe.pass_choices(recipe.parse("m", Path(), table), "embedding", {})
    assert [(one.name, one.options) for one in choices] == [
        ("prune_vocab", {"min_count": 2}), ("prune_gradient", {"ratio": 0.5}),
    ]  # fmt: skip


def test_tables_of_prune_alone_run_in_their_order_whatever_the_files() -> None:
    prune = {"l2": {"ratio": 0.5}, "depth": {"layers": 2}, "vocab": {}}
    made = recipe.parse("m", Path(), {"prune": prune, "quantize": {"method": "none"}})
    names = [one.name for one in recipe.pass_choices(made, "embedding", {})]
    assert names == ["prune_vocab", "prune_depth", "prune_l2"]


def test_a_method_of_prune_is_named_once() -> None:
    made = recipe.parse("m", Path(), {"prune": {"method": "vocab", "vocab": {"min_count": 2}}})
    with pytest.raises(UsageError, match=r"\[prune\.vocab\] too"):
        recipe.pass_choices(made, "embedding", {})


def test_an_unknown_target_names_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="did you mean 'gguf'"):
        target.find("ggfu")


def test_every_target_on_the_shelf_can_be_read() -> None:
    assert {target.find(str(path)).name for path in target.names().values()} >= {"cpu", "gguf"}


def test_every_recipe_on_the_shelf_can_be_read() -> None:
    assert all(recipe.read(path).task for path in recipe.names().values())


def test_plug_ins_are_the_files_that_define_their_own_class() -> None:
    found = registry.names("backends")
    assert found == ["aotinductor", "executorch", "gguf", "null", "onnxruntime", "openvino"]


def test_an_unknown_pass_names_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="quantize_rtn"):
        registry.find("passes", "quantize_rtm", "recipe")


@pytest.mark.parametrize(
    ("architecture", "pattern"),
    [("llama", "*.v_proj.weight"), ("phi3", "*.qkv_proj.weight"), ("gpt2", "*.c_attn.weight")],
)
def test_a_plain_build_keeps_a_decoders_values_at_8_bits(architecture: str, pattern: str) -> None:
    table = recipe.default_quantize("text-generation", 1, architecture)
    assert table["overrides"] == {pattern: 8}
