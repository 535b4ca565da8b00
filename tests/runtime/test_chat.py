from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgecompile.runtime.chat import ChatTemplate
from edgecompile.runtime.errors import BadInputError, UsageError
from tests import tiny
from tests.runtime.makers import TEMPLATE

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by "
    "Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BLOCKS = """{{ bos_token }}
{%- for message in messages %}
    {%- if message.role == 'skip' %}{% continue %}{% endif %}
    {% if message.role == 'assistant' %}
    {% generation %}{{ message.content | trim }}{{ eos_token }}{% endgeneration %}
    {% else %}
    [{{ message.role | upper }}] {{ message | tojson }} {{ message.content | tojson(indent=2) }}
    {% endif %}
{%- endfor %}
{% set ns = namespace(count=0) %}
{% for m in messages %}{% set ns.count = ns.count + 1 %}{% endfor %}
{{ ns.count }} {{ tools is none }} {{ dict(a=1) }}
{% if add_generation_prompt %}[ASSISTANT]{% endif %}
"""
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "hello"}],
    [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
    [
        {"role": "user", "content": "Grüße, 你好 🙂 <b>&amp;"},
        {"role": "assistant", "content": "  spaced  "},
        {"role": "user", "content": ""},
    ],
    [{"role": "user", "content": "  \n line\ttab {{ messages }} {% if %}"}],
    [{"role": "skip", "content": "not shown"}, {"role": "user", "content": "x" * 2000}],
    [],
]


@pytest.mark.parametrize("template", [TEMPLATE, SMOLLM2, BLOCKS], ids=["plain", "smol", "all"])
@pytest.mark.parametrize("turns", CONVERSATIONS)
@pytest.mark.parametrize("prompt", [True, False])
def test_a_prompt_is_the_one_that_transformers_renders(
    template: str, turns: list[dict[str, Any]], prompt: bool
) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template(
        conversations=[turns], chat_template=template, add_generation_prompt=prompt, **TOKENS
    )
    ours = ChatTemplate(template, TOKENS).render(turns, add_generation_prompt=prompt)
    assert ours == rendered[0]


SHOWS_ALL = "{{ messages | tojson }} {{ tools | tojson }} {{ tools is none }}"
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "now", "parameters": {}}}


@pytest.mark.parametrize("tools", [None, [], [TOOL]])
@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "tool_calls": [{"function": {"name": "now", "arguments": {}}}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant", "content": "x", "tool_calls": None, "name": "y"},
        {"role": "assistant", "content": "x", "thinking": "hm"},
        {"role": "assistant", "content": "x", "reasoning": "a", "reasoning_content": "b"},
        {"role": "user", "content": [{"type": "text", "text": "é"}]},
    ],
)
def test_a_template_sees_of_tools_and_turns_what_transformers_shows(
    turn: dict[str, Any], tools: list[dict[str, Any]] | None, tmp_path: Path
) -> None:
    from transformers import PreTrainedTokenizerFast

    tiny.byte_bpe(tmp_path)
    source = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    expected = source.apply_chat_template(
        [turn], tools=tools, chat_template=SHOWS_ALL, tokenize=False
    )
    ours = ChatTemplate(SHOWS_ALL, {}).render([turn], tools=tools, add_generation_prompt=False)
    assert ours == expected


def test_tools_have_a_template_of_their_own_where_there_are_two() -> None:
    template = ChatTemplate("plain", {}, "{{ tools[0].function.name }}")
    turns = [{"role": "user", "content": "x"}]
    assert template.render(turns) == "plain"
    assert template.render(turns, tools=[TOOL]) == "now"


@pytest.mark.parametrize("tool", ["now", print])
def test_a_tool_that_is_no_schema_is_shown(tool: Any) -> None:
    with pytest.raises(UsageError, match="tool 0"):
        ChatTemplate("x", {}).render([{"role": "user", "content": "x"}], tools=[tool])


def test_a_template_that_divides_by_zero_refuses() -> None:
    with pytest.raises(UsageError, match="division"):
        ChatTemplate("{{ 1 // (messages | length - 1) }}", {}).render(
            [{"role": "user", "content": "x"}]
        )


def test_a_template_can_refuse_a_conversation() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    with pytest.raises(UsageError, match="roles must alternate"):
        template.render([{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ namespace.__init__.__globals__['os'] }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__ }}",
        "{{ ''.join.__self__.__class__ }}",
    ],
)
def test_a_template_reaches_nothing_outside_its_sandbox(attack: str) -> None:
    try:
        shown = ChatTemplate(attack, {}).render([{"role": "user", "content": "x"}])
    except UsageError:
        return
    assert shown == ""  # what the sandbox hides is undefined, and undefined prints as nothing


def test_a_broken_template_is_bad_input() -> None:
    with pytest.raises(BadInputError, match="line 1"):
        ChatTemplate("{% for %}", {})


@pytest.mark.parametrize(
    "turn", ["hello", {"role": "user"}, {"content": "x"}, {"role": "user", "content": object()}]
)
def test_a_message_that_is_none_is_shown(turn: Any) -> None:
    with pytest.raises(UsageError, match="message 0"):
        ChatTemplate(TEMPLATE, {}).render([turn])
