"""Text and token ids that a bundle generates."""
from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Unpack

import numpy as np

from . import seq2seq
from .batching import check_ids
from .chat import Messages, Tools
from .engine import Decoder, Float32
from .errors import BadInputError, UsageError
from .manifest import GENERATING
from .opened import Opened, checked_texts
from .sampling import Sampler, SamplingKeywords, SamplingOptions
from .streaming import StopStrings, TextStream


class Generating(Opened):
    """What decoders do, and encoder-decoders."""

    def render(
        self, messages: Messages, *, tools: Tools | None = None, add_generation_prompt: bool = True
    ) -> str:
        """The prompt text of messages, by the source's chat template."""
        if self._template is None:
            raise UsageError("messages", "this bundle has no chat template", "a str prompt")
        return self._template.render(
            messages, tools=tools, add_generation_prompt=add_generation_prompt
        )

    def prompt_ids(
        self, prompt: str | Messages, *, tools: Tools | None = None,
        add_generation_prompt: bool = True,
    ) -> list[int]:  # fmt: skip
        """Token ids of a raw prompt, or of messages through the chat template."""
        if isinstance(prompt, str):
            if tools is not None:
                raise UsageError("tools", "a raw prompt", "messages: the chat template shows tools")
            return self.tokenize([prompt])[0]
        text = self.render(prompt, tools=tools, add_generation_prompt=add_generation_prompt)
        return self._need_tokens().encode([text], special=False)[0]

    def generate(
        self,
        prompt: str | Messages,
        *,
        max_new_tokens: int = 256,
        stop: Sequence[str] = (),
        tools: Tools | None = None,
        **sampling: Unpack[SamplingKeywords],
    ) -> Iterator[str]:
        """Text in pieces as it is generated; a str prompt is used raw, messages are templated.

        `tools`: JSON schemas of functions that the template tells the model of.
        `sampling`: temperature (0 is greedy), top_k, top_p, min_p, repetition_penalty, seed. Ends
        at a stop token, before a `stop` string, at `max_new_tokens` or when the context is full.
        """
        options = _sampling_options(sampling)
        if isinstance(stop, str) or max_new_tokens < 0:
            found = f"stop {stop!r}, max_new_tokens {max_new_tokens!r}"
            raise UsageError("generate", found, "a list of strings and 0 or more")
        ids = self.prompt_ids(prompt, tools=tools)
        self._check_length(ids)
        return self._pieces(ids, max_new_tokens, stop, options)

    def generate_ids(
        self, ids: Sequence[int], max_new_tokens: int, options: SamplingOptions | None = None,
        sound: Float32 | None = None,
    ) -> Generator[int, None, None]:  # fmt: skip
        """Token ids one at a time; stop tokens are given out like any other.

        Of a window of `sound` (`features`), `ids` are what the answer begins with.
        """
        with self._started(ids, max_new_tokens, sound) as (decoder, fed, room):
            sampler = Sampler(options or SamplingOptions(), fed)
            for _ in range(room):
                self._need()
                token = sampler.choose(decoder.feed(fed))
                yield token
                fed = (token,)

    def greedy(
        self, ids: Sequence[int], steps: int, sound: Float32 | None = None
    ) -> Iterator[tuple[int, Float32]]:
        """The likeliest token and the logits [vocab] it was taken from, `steps` times."""
        with self._started(ids, steps, sound) as (decoder, fed, room):
            for _ in range(room):
                logits = decoder.feed(fed)
                token = int(np.argmax(logits))
                yield token, logits
                fed = (token,)

    def logits(
        self, ids: Sequence[int], source: Sequence[int] | Float32 | None = None
    ) -> Iterator[Float32]:
        """Logits after each token, float32 chunks [<=128, vocab]; a chunk is valid until the next.

        Longer than the context: it goes on with an empty past every `context_length` tokens. An
        encoder-decoder has a `source` (ids, or `features`), and `ids` of the answer with its start.
        """
        engine = self._need(*GENERATING)
        check_ids(ids)
        if source is not None:
            with engine.decoder(len(ids)) as decoder:
                seq2seq.begin(decoder, source)
                yield from decoder.feed_all(ids)
            return
        window = self._context()
        for start in range(0, len(ids), window):
            part = ids[start : start + window]
            with engine.decoder(len(part)) as decoder:
                yield from decoder.feed_all(part)

    def translate(
        self, texts: Sequence[str], *, max_new_tokens: int = 256,
        **sampling: Unpack[SamplingKeywords],
    ) -> list[str]:  # fmt: skip
        """The whole answer to each text."""
        self._need("text2text-generation")
        return [
            "".join(self.generate(text, max_new_tokens=max_new_tokens, **sampling))
            for text in checked_texts(texts)
        ]

    @contextmanager
    def _started(
        self, ids: Sequence[int], limit: int, sound: Float32 | None = None
    ) -> Iterator[tuple[Decoder, Sequence[int], int]]:
        """A decoder, the tokens that it is fed first, and how many it may give, at most `limit`.

        They are the prompt; of an encoder-decoder, whose prompt is encoded, its start token, and
        again `ids` where `sound` is what is encoded.
        """
        engine = self._need(*GENERATING)
        self._check_length(ids)
        start = self.info.generation.start_token_id if self.info.generation else None
        first = ids if start is None or sound is not None else [start]
        room = min(limit, self._context() - len(first))
        with engine.decoder(len(first) + room) as decoder:
            if start is not None:
                seq2seq.begin(decoder, ids if sound is None else sound)
            yield decoder, first, room

    def _pieces(
        self, ids: Sequence[int], limit: int, stop: Sequence[str], options: SamplingOptions
    ) -> Iterator[str]:
        text, stops = TextStream(self._need_tokens().decode), StopStrings(stop)
        ends = set(self.info.generation.stop_token_ids if self.info.generation else ())
        with closing(self.generate_ids(ids, limit, options)) as tokens:
            for token in tokens:
                if token in ends:
                    break
                if piece := stops.push(text.push(token)):
                    yield piece
                if stops.found:
                    return
        if rest := stops.push(text.flush()) + stops.flush():
            yield rest

    def _context(self) -> int:
        if self.info.generation is None:
            raise BadInputError("manifest", "no generation section", "one for text-generation")
        return self.info.generation.context_length

    def _check_length(self, ids: Sequence[int]) -> None:
        check_ids(ids)
        if len(ids) >= self._context():
            raise UsageError("prompt", f"{len(ids)} tokens", f"fewer than {self._context()}")


def _sampling_options(given: SamplingKeywords) -> SamplingOptions:
    known = [field.name for field in dataclasses.fields(SamplingOptions)]
    if unknown := sorted(given.keys() - set(known)):
        raise UsageError("generate", f"unknown option {', '.join(unknown)}", ", ".join(known))
    return SamplingOptions(**given)
