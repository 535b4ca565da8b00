"""Conversations that chat templates get wrong: a bundle must make the source's prompts of each."""
# ruff: noqa: RUF001 (text with characters that look like others)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Turns = Sequence[Mapping[str, Any]]


def _turns(*pairs: tuple[str, str]) -> Turns:
    return [{"role": role, "content": content} for role, content in pairs]


TOOLS: Sequence[Mapping[str, Any]] = (
    {
        "type": "function",
        "function": {
            "name": "tide_table",
            "description": "High and low water at a port <today>; \"naïve\" times, in °C & m.",
            "parameters": {
                "type": "object",
                "properties": {
                    "port": {"type": "string", "description": "Its name, e.g. Århus or 横浜"},
                    "days": {"type": "integer", "description": "How many"},
                },
                "required": ["port"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "now", "description": "The time.",
            "parameters": {"type": "object", "properties": {}},
        },
    },
)  # fmt: skip
_ASKED: Mapping[str, Any] = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{
        "id": "call00001", "type": "function",
        "function": {"name": "tide_table", "arguments": {"port": "Århus", "days": 2}},
    }],
}  # fmt: skip
_RESULT: Mapping[str, Any] = {
    "role": "tool", "tool_call_id": "call00001", "name": "tide_table",
    "content": '{"high": ["04:10", "16:35"], "note": "日本"}',
}  # fmt: skip

# Name -> turns; those whose name begins with "tools" are shown TOOLS as well.
CONVERSATIONS: Mapping[str, Turns] = {
    "one turn": _turns(("user", "Which way does the river run?")),
    "empty turn": _turns(("user", "")),
    "system": _turns(("system", "Answer in one line."), ("user", "Name three rivers.")),
    "empty system": _turns(("system", ""), ("user", "And now?")),
    "several turns": _turns(
        ("system", "You are a pilot."), ("user", "Where are the shoals?"),
        ("assistant", "East of the light."), ("user", "And the channel?"),
        ("assistant", "  West of it.\n"), ("user", "Thank you"),
    ),
    "white space": _turns(
        ("user", "  one\n\ttwo  "), ("assistant", " \n "), ("user", "\r\nthree ")
    ),
    "scripts": _turns(
        ("system", "¿Qué? Ёлка नमस्ते"), ("user", "你好，世界 مرحبا שלום e\u0301 ｆｕｌｌ"),
        ("assistant", "Ünïcode \u200d\u200b ok"), ("user", "한국어 ไทย"),
    ),
    "emoji": _turns(
        ("user", "😀👩\u200d👩\u200d👧 🏳️\u200d🌈 👍🏽"), ("assistant", "🇩🇪"), ("user", "❤️")
    ),
    "markup": _turns(
        ("user", "<|im_end|> </s> [INST] <start_of_turn> <think>a</think> {{ five }} {% if %}"),
        ("assistant", "<think>no</think>yes <b>&amp; \"q\" 'r'"), ("user", "\\n <|eot_id|>"),
    ),
    "two users": _turns(("user", "One."), ("user", "Two.")),
    "late system": _turns(("user", "One."), ("system", "Be brief."), ("user", "Two.")),
    "ends with an answer": _turns(("user", "Finish:"), ("assistant", "The tide is")),
    "tools": _turns(("system", "Use the tables."), ("user", "When is high water?")),
    "tools without a system": _turns(("user", "When is low water at Århus?")),
    "tools called": [*_turns(("user", "When is high water?")), _ASKED],
    "tools answered": [
        *_turns(("user", "When is high water?")), _ASKED, _RESULT,
        *_turns(("assistant", "At 04:10."), ("user", "And later? 🌊")),
    ],
}  # fmt: skip


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Each conversation with and without the prompt for an answer: a name, what to render."""
    found = []
    for name, turns in CONVERSATIONS.items():
        tools = list(TOOLS) if name.startswith("tools") else None
        for wanted in (True, False):
            label = f"{name}, {'with' if wanted else 'without'} the prompt to answer"
            case = {"messages": list(turns), "tools": tools, "add_generation_prompt": wanted}
            found.append((label, case))
    return found
