"""A GGUF file's general keys are what the model's card says, as llama.cpp's converter has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest

from edgecompile import sources
from edgecompile.backends.gguf import FILE, Gguf
from edgecompile.model import Model
from edgecompile.sources import card
from edgecompile.sources.huggingface import licence
from tests import tiny

CARD = """---
license: other
license_name: tiny-licence-1.10
license_link: https://example.org/licence
model_creator: A. Author
organization: Example Org
description: "Says: nothing"
version: 1.10
model_url: https://example.org/model
base_model:
- example-org/Base-Model-7B-v0.2
- https://huggingface.co/example-org/Other-Model
- https://example.org/third
- ../a/path
datasets: [wikitext, example-org/data-set]
tags:
- chat
- on-device
pipeline_tag: text-generation
language:
- en
- no
quantized_by: somebody else
---
# A model
---
author: not in the front matter
"""


def quiet(what: str, step: int, steps: int) -> None:
    pass


def with_card(folder: Path, text: str) -> Model:
    tiny.llama(folder)
    (folder / card.CARD).write_text(text, encoding="utf-8")
    return sources.load(sources.resolve(str(folder), task="text-generation"), quiet)


def general(file: Path) -> dict[str, Any]:
    """The `general.*` keys of a file, without that prefix."""
    fields = gguf.GGUFReader(file).fields
    return {k.removeprefix("general."): v.contents() for k, v in fields.items() if "general." in k}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Keys of what is built of a model with that card."""
    out = tmp_path_factory.mktemp("out")
    Gguf().export(with_card(tmp_path_factory.mktemp("m") / "tiny", CARD), out, quiet)
    return general(out / FILE)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("license", "other"),
        ("license.name", "tiny-licence-1.10"),
        ("license.link", "https://example.org/licence"),
        ("author", "A. Author"),
        ("organization", "Example Org"),
        ("description", "Says: nothing"),
        ("version", "1.10"),  # text stays text
        ("source.url", "https://example.org/model"),
        ("size_label", "95K"),
        ("base_model.count", 3),  # a path is no model's name
        ("base_model.0.name", "Base Model 7B v0.2"),
        ("base_model.0.organization", "Example Org"),
        ("base_model.0.version", "v0.2"),
        ("base_model.0.repo_url", "https://huggingface.co/example-org/Base-Model-7B-v0.2"),
        ("base_model.1.name", "Other Model"),
        ("base_model.1.repo_url", "https://huggingface.co/example-org/Other-Model"),
        ("base_model.2.repo_url", "https://example.org/third"),
        ("dataset.count", 2),
        ("dataset.0.name", "Wikitext"),
        ("dataset.1.organization", "Example Org"),
        ("dataset.1.repo_url", "https://huggingface.co/datasets/example-org/data-set"),
        ("tags", ["chat", "on-device", "text-generation"]),
        ("languages", ["en", "no"]),  # Norwegian, not false
    ],
)
def test_a_cards_field_is_in_the_file(found: dict[str, Any], key: str, value: Any) -> None:
    assert found[key] == value


@pytest.mark.parametrize("key", ["quantized_by", "url", "repo_url", "base_model.2.name"])
def test_what_nobody_knows_is_not_in_the_file(found: dict[str, Any], key: str) -> None:
    assert key not in found


def test_what_both_take_from_a_card_is_what_llama_cpps_converter_takes(
    found: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text(CARD, encoding="utf-8")
    theirs = gguf.Metadata.load(model_path=tmp_path, model_name="tiny")
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    theirs.base_models = [one for one in theirs.base_models or [] if "Path" not in str(one)]
    theirs.set_gguf_meta_model(writer)
    values = {k.removeprefix("general."): v.value for k, v in writer.kv_data[0].items()}
    # The hub has data sets elsewhere than models, and 1.10 is no number: theirs are wrong.
    both = (values.keys() & found.keys()) - {"dataset.1.repo_url", "version"}
    assert len(both) >= 20
    assert {key: found[key] for key in both} == {key: values[key] for key in both}
    assert {key for key in values if key not in found} <= {"basename", "finetune"}  # guessed


def test_a_gguf_sources_keys_come_along(found: dict[str, Any], tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    Gguf().export(with_card(tmp_path / "tiny", CARD), first, quiet)
    model = sources.load(sources.resolve(str(first / FILE)), quiet)
    assert model.licence.id == "tiny-licence-1.10"
    Gguf().export(model, second, quiet)
    again = general(second / FILE)
    same = found.keys() - {"name", "file_type"}
    assert {key: again.get(key) for key in same} == {key: found[key] for key in same}


def test_a_model_without_a_card_has_no_licence_in_its_file(tmp_path: Path) -> None:
    model = with_card(tmp_path / "tiny", "# no front matter\n")
    assert model.licence.id == "unknown"
    (tmp_path / "out").mkdir()
    Gguf().export(model, tmp_path / "out", quiet)
    keys = general(tmp_path / "out" / FILE)
    assert not [key for key in keys if key.startswith(("license", "base_model", "tags"))]


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: 'apache-2.0'\n---\n", "apache-2.0"),
        ("---\nlicense:\n- mit\n- bsd-3-clause\n---\n", "mit,bsd-3-clause"),
        ("---\nlicense: ~\n---\n", "unknown"),
        ("---\nlicense: mit\nbroken: [\n---\n", "mit"),  # no YAML: line by line
        ("---\nlicense: !!python/object/apply:os.system [\"false\"]\n---\n", "false"),
        ("---\n- a list\n---\n", "unknown"),
        ("# none\nlicense: mit\n", "unknown"),
        ("", "unknown"),
        ("---\nlicense: mit\ntext: a --- b\n", "mit"),
    ],
)
def test_a_licence_is_read_from_front_matter_of_any_kind(
    tmp_path: Path, text: str, identity: str
) -> None:
    (tmp_path / card.CARD).write_text(text, encoding="utf-8")
    assert licence(tmp_path).id == identity


def test_a_card_that_refers_to_itself_is_no_trap(tmp_path: Path) -> None:
    layers = [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    text = "\n".join(["---", "license: mit", "a0: &a0 [x, x]", *layers, "tags: *a39", "---", ""])
    (tmp_path / card.CARD).write_text(text, encoding="utf-8")
    fields = card.front_matter(tmp_path)
    assert card.text_of(fields, "license") == "mit"
    assert card.texts_of(fields, "tags") == []  # lists of lists are no tags
