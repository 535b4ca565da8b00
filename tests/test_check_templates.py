"""A bundle's chat prompts are the source's: text, ids, refusals, through the runtime that ships."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from edgecompile import bundle, registry, sources, target
from edgecompile.checks import tokens
from edgecompile.model import Model
from edgecompile.report import Row
from edgecompile.runtime.manifest import read_manifest
from edgecompile.runtime.worker_client import Worker
from edgecompile.text.conversations import CONVERSATIONS, cases
from edgecompile.text.source_tokens import FolderTokens
from tests import tiny

PLAIN = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
STRICT = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('System role not supported') }}{% endif %}
{% for m in messages %}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate: ' ~ loop.index0) }}{% endif %}
[{{ m.role }}] {{ m.content | trim }}{{ eos_token }}{{ pad_token }}
{% endfor %}
{% if add_generation_prompt %}[model]{% endif %}"""
TOOLS = """{% if tools %}<s>tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}</s>{% endif %}
{% for m in messages %}<s>{{ m.role }}
{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}
{% if m.content is string %}{{ m.content }}{% endif %}
{% for call in m.tool_calls or [] %}{{ call.function.name }}
{{ call.function.arguments | tojson }}{% endfor %}
</s>{% endfor %}
{% if add_generation_prompt %}<s>assistant{% endif %}"""
BROKEN = "{% for m in messages %}{{ m['role'] + 1 + m['content'] }}{% endfor %}"
TEMPLATES = {"plain": PLAIN, "strict": STRICT, "tools": TOOLS, "broken": BROKEN}


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def decoder(folder: Path, template: str | list[dict[str, str]]) -> Model:
    """A tiny decoder with that template, and a padding token that it may name."""
    tiny.llama(folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | {"chat_template": template, "pad_token": "</s>"}
    file.write_text(json.dumps(settings))
    return sources.load(sources.resolve(str(folder), task="text-generation"), quiet)


def sealed(model: Model, name: str, folder: Path) -> Path:
    """A bundle of the model's floats for the target of that name."""
    device = target.find(name)
    files, out = folder / "files", folder / "bundle"
    files.mkdir(parents=True)
    out.mkdir()
    export = registry.create("backends", device.backend, device.options, "test").export(
        model, files, quiet
    )
    bundle.assemble(bundle.Contents(model, device, "", export, ()), files, out)
    return out


def rows(bundle_folder: Path, model: Model) -> dict[str, Row]:
    info = read_manifest(bundle_folder)
    with Worker(bundle_folder, threads=1) as worker:
        found = tokens.template_rows(worker, FolderTokens(model, 0), info, bundle_folder)
        return {row.metric: row for row in found}


def changed(folder: Path, change: Callable[[str], str]) -> None:
    """Another template in a sealed bundle, with hashes that agree."""
    file = folder / "tokenizer" / "chat_template.jinja"
    text = file.read_text()
    assert change(text) != text
    file.write_text(change(text))
    bundle.write_manifest(folder, json.loads((folder / "manifest.json").read_text("utf-8")))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_sound_bundle_makes_the_sources_prompts(name: str, tmp_path: Path) -> None:
    model = decoder(tmp_path / "m", TEMPLATES[name])
    found = rows(sealed(model, "gguf", tmp_path), model)
    assert found[tokens.TEMPLATE].verdict == "pass", found[tokens.TEMPLATE].detail
    assert found[tokens.TEMPLATE].samples == 2 * len(CONVERSATIONS)
    assert found["gguf_template_differing"].verdict == "pass"


@pytest.mark.parametrize(("name", "refused"), [("plain", 0), ("strict", 14), ("broken", 32)])
def test_conversations_are_both_taken_and_refused(
    name: str, refused: int, tmp_path: Path
) -> None:
    source = FolderTokens(decoder(tmp_path / "m", TEMPLATES[name]), 0)
    found = [source.render(case) for _, case in cases()]
    assert sum("refused" in one for one in found) == refused


def test_a_changed_template_is_found_by_name_and_index(tmp_path: Path) -> None:
    model = decoder(tmp_path / "m", PLAIN)
    folder = sealed(model, "cpu", tmp_path)
    changed(folder, lambda text: text.replace("<s>assistant:", "<s>assistant: "))
    row = rows(folder, model)[tokens.TEMPLATE]
    assert row.verdict == "fail"
    assert row.value == len(CONVERSATIONS)  # those that end with the prompt to answer
    first = "conversation 0 (one turn, with the prompt to answer): text, conversation 2 (empty turn"
    assert row.detail.startswith(first)


def test_a_template_that_refuses_less_is_found(tmp_path: Path) -> None:
    model = decoder(tmp_path / "m", STRICT)
    folder = sealed(model, "cpu", tmp_path)
    changed(folder, lambda text: text.replace("Roles must alternate", "Other words"))
    assert "other words of refusal" in rows(folder, model)[tokens.TEMPLATE].detail
    changed(folder, lambda text: text.replace("raise_exception(", "dict(a="))
    assert "the source refuses it" in rows(folder, model)[tokens.TEMPLATE].detail


def test_another_token_of_the_manifest_is_found(tmp_path: Path) -> None:
    model = decoder(tmp_path / "m", STRICT)
    folder = sealed(model, "cpu", tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest["tokenizer"]["special_tokens"] == {"pad_token": "</s>"}
    manifest["tokenizer"]["special_tokens"] = {"pad_token": "<s>"}
    bundle.write_manifest(folder, manifest)
    row = rows(folder, model)[tokens.TEMPLATE]
    assert "conversation 0 (one turn, with the prompt to answer): text" in row.detail


def test_another_tokenizer_of_prompts_is_found_by_its_ids(tmp_path: Path) -> None:
    model = decoder(tmp_path / "m", PLAIN)
    folder = sealed(model, "cpu", tmp_path)
    file = folder / "tokenizer" / "tokenizer.json"
    table = json.loads(file.read_text("utf-8"))
    table["added_tokens"] = [one for one in table["added_tokens"] if one["content"] != "</s>"]
    file.write_text(json.dumps(table))
    bundle.write_manifest(folder, json.loads((folder / "manifest.json").read_text("utf-8")))
    row = rows(folder, model)[tokens.TEMPLATE]
    assert "conversation 0 (one turn, with the prompt to answer): ids" in row.detail


def test_a_gguf_files_own_template_is_compared(tmp_path: Path) -> None:
    model = decoder(tmp_path / "m", PLAIN)
    folder = sealed(model, "gguf", tmp_path)
    file = folder / "model" / "model.gguf"
    data = file.read_bytes()
    assert data.count(b"<s>assistant:") == 1
    file.write_bytes(data.replace(b"<s>assistant:", b"<s>Assistant:"))
    bundle.write_manifest(folder, json.loads((folder / "manifest.json").read_text("utf-8")))
    found = rows(folder, model)
    assert found[tokens.TEMPLATE].verdict == "pass"
    assert found["gguf_template_differing"].detail == "tokenizer.chat_template"


@pytest.mark.parametrize("name", ["gguf", "cpu"])
def test_a_template_of_its_own_for_tools_ships_and_is_used(name: str, tmp_path: Path) -> None:
    two = [{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": TOOLS}]
    model = decoder(tmp_path / "m", two)
    folder = sealed(model, name, tmp_path)
    found = rows(folder, model)
    assert {row.verdict for row in found.values()} == {"pass"}
    with Worker(folder, threads=1) as worker:
        texts = [prompt["text"] for prompt in worker.render([case for _, case in cases()])]
    assert sum("tide_table" in text for text in texts) == 8  # all that are shown tools
    if name == "gguf":
        fields = gguf.GGUFReader(folder / "model" / "model.gguf").fields
        assert fields["tokenizer.chat_template.tool_use"].contents() == TOOLS
        assert fields["tokenizer.chat_templates"].contents() == ["tool_use"]
        source = sources.load(sources.resolve(str(folder / "model" / "model.gguf")), quiet)
        assert FolderTokens(source, 0).render(cases()[-1][1])["text"] == texts[-1]


def test_a_template_in_files_is_the_one_that_ships(tmp_path: Path) -> None:
    model = decoder(tmp_path / "m", "not this one")
    extra = tmp_path / "m" / "additional_chat_templates"
    extra.mkdir()
    (tmp_path / "m" / "chat_template.jinja").write_text(PLAIN)
    (extra / "tool_use.jinja").write_text(TOOLS)
    folder = sealed(model, "cpu", tmp_path)
    assert read_manifest(folder).tokenizer is not None
    assert (folder / "tokenizer" / "chat_template.tool_use.jinja").read_text() == TOOLS
    assert rows(folder, model)[tokens.TEMPLATE].verdict == "pass"


def test_special_tokens_of_the_older_file_are_known_too(tmp_path: Path) -> None:
    model = decoder(tmp_path / "m", STRICT)
    file = tmp_path / "m" / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    moved = {name: settings.pop(name) for name in ("bos_token", "pad_token")}
    file.write_text(json.dumps(settings))
    (tmp_path / "m" / "special_tokens_map.json").write_text(json.dumps(moved))
    assert rows(sealed(model, "cpu", tmp_path), model)[tokens.TEMPLATE].verdict == "pass"
