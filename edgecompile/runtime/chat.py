"""Chat templates, rendered as transformers' apply_chat_template renders them, in a sandbox."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import BadInputError, MissingLibraryError, UsageError

if TYPE_CHECKING:
    from jinja2 import Template

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]  # each as a JSON schema: {"type": "function", "function": ...}
REASONING = ("reasoning_content", "thinking", "reasoning")  # names of one field, the newest first


class ChatTemplate:
    """A compiled template; `tokens` (bos_token, eos_token, ...) are in its scope.

    `tool_source` is the template for prompts with tools, where the source has two.
    """

    def __init__(self, source: str, tokens: Mapping[str, str], tool_source: str = "") -> None:
        self._template = _compile(source)
        self._with_tools = _compile(tool_source) if tool_source else self._template
        self._tokens = dict(tokens)

    def render(
        self, messages: Messages, *, tools: Tools | None = None, add_generation_prompt: bool = True
    ) -> str:
        """The prompt text of the turns, ending where the assistant is to begin."""
        from jinja2 import TemplateError

        turns = [_checked(index, turn) for index, turn in enumerate(messages)]
        known = None if tools is None else [_tool(index, one) for index, one in enumerate(tools)]
        template = self._template if tools is None else self._with_tools
        scope = {**self._tokens, "messages": turns, "tools": known, "documents": None}
        try:
            return template.render(scope, add_generation_prompt=add_generation_prompt)
        except (TemplateError, *_RAISED) as error:
            raise UsageError("chat template", f"{error} for {turns!r:.200}") from error


# What an expression of a template can raise beside jinja2's own errors
_RAISED = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)


def _checked(index: int, turn: Mapping[str, Any]) -> dict[str, Any]:
    """The turn as plain JSON types: a rich object's methods would be in the template's reach.

    As transformers has it: a field that is None is not there, and reasoning has two names.
    """
    where = f"message {index}"
    whole = isinstance(turn, Mapping) and "role" in turn and {"content", "tool_calls"} & {*turn}
    if not whole:
        raise UsageError(where, f"{turn!r:.100}", "an object with role and content")
    plain = {name: value for name, value in _plain(where, turn).items() if value is not None}
    thought = next((plain[name] for name in REASONING if name in plain), None)
    if thought is None:
        return plain
    return {"thinking": thought, **plain, "reasoning_content": thought}


def _tool(index: int, tool: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(tool, Mapping):
        found, expected = f"{tool!r:.100}", "an object: the function's JSON schema"
        raise UsageError(f"tool {index}", found, expected)
    return _plain(f"tool {index}", tool)


def _plain(where: str, value: Mapping[str, Any]) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(value)))
    except (TypeError, ValueError) as error:
        raise UsageError(where, str(error), "values that JSON can hold") from error
    return plain


def _compile(source: str) -> Template:
    try:
        from jinja2 import TemplateSyntaxError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        way_out = "pip install jinja2"
        raise MissingLibraryError("jinja2", "not installed", way_out=way_out) from error
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation_tag()]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise BadInputError("chat template", f"{error} in line {error.lineno}") from error


def _generation_tag() -> type[Any]:
    """`{% generation %}` marks the assistant's turns for training; here it only passes them on."""
    from jinja2.ext import Extension
    from jinja2.nodes import Node, Scope
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012  (as jinja2 declares it)

        def parse(self, parser: Parser) -> Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return Scope(body, lineno=line)

    return Generation


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None,
    separators: tuple[str, str] | None = None, sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML; templates are written for transformers', which does not."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
