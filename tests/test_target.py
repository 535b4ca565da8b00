"""Target files: inheritance, several backends, budgets, platforms."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecompile import target
from edgecompile.errors import UnsupportedError, UsageError
from edgecompile.plan import Request, plan
from tests import tiny


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with ./targets, which come before the shipped ones."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").mkdir()
    return tmp_path / "targets"


def write(shelf: Path, name: str, text: str) -> str:
    (shelf / f"{name}.toml").write_text(text)
    return name


def test_a_target_inherits_what_it_does_not_say(shelf: Path) -> None:
    write(shelf, "board", 'inherits = "gguf"\ndescription = "a board"\n')
    assert target.find("board").backend == "gguf"


def test_tables_are_merged_key_by_key(shelf: Path) -> None:
    table = "[budget]\nsize_mb = 5\nmemory_mib = 7"
    write(shelf, "base", f'description = "b"\nbackend = "null"\n{table}')
    write(shelf, "heir", 'inherits = "base"\ndescription = "h"\n[budget]\nsize_mb = 6')
    budget = target.find("heir").budget
    assert (budget.size_mb, budget.memory_mib) == (6, 7)


def test_targets_that_inherit_from_each_other_are_refused(shelf: Path) -> None:
    write(shelf, "one", 'inherits = "two"\ndescription = "1"')
    write(shelf, "two", 'inherits = "one"\ndescription = "2"')
    with pytest.raises(UsageError, match="inherits from this one"):
        target.find("one")


def test_an_unknown_base_names_the_nearest(shelf: Path) -> None:
    write(shelf, "board", 'inherits = "ggfu"\ndescription = "a board"')
    with pytest.raises(UsageError, match="did you mean 'gguf'"):
        target.find("board")


def test_the_backend_is_the_one_preferred_for_the_task(shelf: Path) -> None:
    text = 'description = "d"\nbackend = "null"\n[prefer]\nembedding = "gguf"'
    found = target.find(write(shelf, "device", text))
    chosen = found.preferred("embedding").backend, found.preferred("classification").backend
    assert chosen == ("gguf", "null")


def test_naming_a_backend_on_the_command_line_drops_the_preference(shelf: Path) -> None:
    text = 'description = "d"\nbackend = "null"\n[prefer]\nembedding = "gguf"'
    found = target.find(write(shelf, "device", text), ["backend=onnxruntime"])
    assert found.preferred("embedding").backend == "onnxruntime"


def test_options_below_a_backends_name_are_that_backends_alone(shelf: Path) -> None:
    text = (
        'description = "d"\nbackend = "gguf"\n[options.gguf]\ntypes = "Q4_K_M"\n'
        "[options.onnxruntime]\naccuracy_level = 1"
    )
    found = target.find(write(shelf, "device", text))
    assert [dict(found.on(name).options) for name in ("gguf", "onnxruntime", "null")] == [
        {"types": "Q4_K_M"}, {"accuracy_level": 1}, {},
    ]  # fmt: skip


@pytest.mark.parametrize("line", ['candidates = ["gguff"]', 'prefer = {embedding = "gguff"}'])
def test_a_misspelt_backend_names_the_nearest(shelf: Path, line: str) -> None:
    write(shelf, "device", f'description = "d"\nbackend = "gguf"\n{line}')
    with pytest.raises(UsageError, match="did you mean 'gguf'"):
        target.find("device")


def test_a_misspelt_platform_names_the_nearest(shelf: Path) -> None:
    write(shelf, "device", 'description = "d"\nbackend = "gguf"\nfor = "linux-amr64"')
    with pytest.raises(UsageError, match="did you mean 'linux-arm64'"):
        target.find("device")


def test_a_model_whose_cache_does_not_fit_is_refused_with_its_figures(
    shelf: Path, tmp_path: Path
) -> None:
    model = tiny.llama(tmp_path / "tiny-llama", max_position_embeddings=1 << 18)
    text = 'inherits = "cpu"\ndescription = "d"\n[budget]\nmemory_mib = 200'
    request = Request(str(model), (write(shelf, "small", text),), tmp_path / "dist")
    with pytest.raises(UnsupportedError, match="of it for the keys and values of 262144 tokens"):
        plan(request)


def test_a_shorter_context_makes_it_fit(shelf: Path, tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny-llama", max_position_embeddings=1 << 18)
    text = 'inherits = "cpu"\ndescription = "d"\ncontext_length = 128\n[budget]\nmemory_mib = 200'
    request = Request(str(model), (write(shelf, "small", text),), tmp_path / "dist")
    assert plan(request).targets[0].estimate.context_length == 128
