"""A bundle opened for use: text in, vectors, text, labels or arrays out."""
from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from . import heads, seq2seq, towers
from .audio import AudioInput, Clip
from .batching import activate, check_ids, encode_all, look_all
from .chat import ChatTemplate, Messages, Tools
from .engine import Decoder, Engine, Float32, open_engine
from .errors import BadInputError, UnsupportedError, UsageError
from .manifest import GENERATING, IMAGE_TEXT, Manifest, read_manifest
from .pictures import Picture
from .sampling import Sampler, SamplingKeywords, SamplingOptions
from .streaming import StopStrings, TextStream
from .threads import probed_cores
from .tokens import Encoded, Pair, Tokens
from .verify import verify as verify_files

if TYPE_CHECKING:
    from .golden import GoldenResult
    from .transcript import Transcript


def load(
    path: Path | str, verify: str = "once", threads: int | None = None, provider: str = ""
) -> Session:
    """Open the bundle folder; `verify` is once, always or never, `threads` None is probed.

    `provider` asks a bundle for GPUs for one by name (cuda, tensorrt-rtx, directml, webgpu, cpu).

    Nothing is opened by the engine before the manifest and every file's SHA-256 have been checked.
    """
    if threads is not None and threads < 1:
        raise UsageError("threads", repr(threads), "1 or more")
    try:
        return Session(Path(path), verify, threads or probed_cores(), provider)
    except OSError as error:
        raise BadInputError(str(path), str(error), "files that can be read") from error


class Session:
    """Safe to share between threads; close it, or use it in a `with` block."""

    def __init__(self, bundle: Path, verify: str, threads: int, provider: str = "") -> None:
        start = time.perf_counter()
        self._bundle = bundle
        self.info: Manifest = read_manifest(bundle)
        self.threads = threads
        verify_files(bundle, self.info, verify, threads)
        self._tokens = _open_tokens(bundle, self.info)
        self._template = _open_template(bundle, self.info)
        pad_id = self._tokens.pad_id if self._tokens else 0
        self._opened: Engine | None = open_engine(
            bundle, self.info, threads, pad_id, provider
        )
        self.engine_version = self._opened.version
        # What computes, where the engine says: provider, name, software, ...
        self.device: dict[str, Any] = dict(getattr(self._opened, "device", {}))
        self.load_seconds = time.perf_counter() - start

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the engine; a call that is under way ends first, later ones raise UsageError."""
        engine, self._opened = self._opened, None
        if engine is not None:
            engine.close()

    @property
    def has_template(self) -> bool:
        """Whether `generate` takes messages."""
        return self._template is not None

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text as the model sees it, special tokens included."""
        return self._need_tokens().encode(_texts(texts))

    def embed(self, texts: Sequence[str], *, normalize: bool | None = None) -> Float32:
        """float32 [n, dim], one row a text; `normalize` None is as the source model does."""
        self._need("embedding", IMAGE_TEXT)
        return self.embed_ids(self.tokenize(texts), normalize=normalize)

    def embed_ids(
        self, ids: Sequence[Sequence[int]], *, normalize: bool | None = None
    ) -> Float32:
        """As `embed`, of token ids with the special tokens in place."""
        engine, inside = self._need("embedding", IMAGE_TEXT), self.info.engine.name != "llama_cpp"
        pooling = towers.pooling_of(self.info)
        if normalize is False and pooling.normalize and inside:
            raise UsageError("normalize", "False", "True: this bundle's graph normalizes itself")
        vectors = encode_all(engine, ids, pooling.dimension)
        if pooling.normalize if normalize is None else normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def embed_image(self, pictures: Sequence[Picture]) -> Float32:
        """float32 [n, dim], one row of length 1 a picture, to compare with `embed`'s of texts."""
        self._need(IMAGE_TEXT)
        return towers.embed_pictures(self, pictures)

    def similarity(self, pictures: Sequence[Picture], texts: Sequence[str]) -> Float32:
        """float32 [pictures, texts], the source's logits: e to its logit scale times the cosine."""
        self._need(IMAGE_TEXT)
        return towers.logits(self, pictures, texts)

    def encode_whole(self, inputs: Sequence[str | Pair]) -> list[Encoded]:
        """Token ids of texts or pairs of texts, with types, offsets and which are special."""
        pairs = not isinstance(inputs, str) and all(map(heads.is_pair, inputs))
        return self._need_tokens().encode_whole(inputs if pairs else _texts(inputs))  # type: ignore[arg-type]

    def classify(self, texts: Sequence[str | Pair]) -> list[dict[str, float]]:
        """Label -> probability for each text, or each pair of texts (premise, hypothesis)."""
        self._need("classification")
        encoded = self.encode_whole(texts)
        types = [one.types for one in encoded] if encoded and heads.is_pair(texts[0]) else None
        rows = self.rows([one.ids for one in encoded], types)
        return self._labelled(np.array(rows, np.float32).reshape(len(rows), len(self.info.labels)))

    def classify_tokens(self, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
        """For each text its tokens as {word, start, end, label, score}; start, end: characters."""
        engine = self._need("token-classification")
        return heads.token_labels(engine, self.info, texts, self.encode_whole(_texts(texts)))

    def fill(self, texts: Sequence[str], *, top_k: int = 5) -> list[list[list[dict[str, Any]]]]:
        """For each text and mask token in it the likeliest tokens as {token, id, score}."""
        engine = self._need("fill-mask")
        return heads.fillings(engine, self.info, self._need_tokens(), _texts(texts), top_k)

    def score(self, pairs: Sequence[Pair]) -> Float32:
        """float32 [n]: how well the second text of each pair answers the first."""
        engine = self._need("text-ranking")
        encoded = self.encode_whole(heads.check_pairs(pairs))
        return heads.scores(engine, self.info, encoded)

    @property
    def mask_token(self) -> str:
        """What stands for a word to be filled in."""
        return heads.mask_token(self.info)

    @property
    def mask_id(self) -> int:
        """The token that stands for a word to be filled in."""
        return heads.mask_id(self.info, self._need_tokens())

    def rows(
        self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None,
        at: Sequence[Sequence[int]] | None = None,
    ) -> list[Float32]:  # fmt: skip
        """The graph's own scores: [width] a token list, or [tokens, width], of the tokens `at`."""
        return heads.raw_rows(self._need(), self.info, ids, types, at)

    def classify_image(
        self, pictures: Sequence[Picture], labels: Sequence[str] = ()
    ) -> list[dict[str, float]]:
        """Label -> probability for each picture: a path, bytes, PIL image or uint8 [h, w, 3].

        `labels` are texts ("a photo of a cat") to choose from, for a model of texts and pictures.
        """
        self._need("image-classification", IMAGE_TEXT)
        if self.info.task == IMAGE_TEXT:
            return towers.label(self, pictures, _texts(labels))
        if labels:
            raise UsageError("labels", f"{list(labels)!r:.100}", "none: this model has its own")
        return self._labelled(self.look(self.prepare(pictures)))

    def look(self, pixels: Float32) -> Float32:
        """The graph's own rows float32 [n, width] for prepared pictures [n, 3, height, width]."""
        return look_all(self._need(), pixels, towers.batch_of(self.info))

    def prepare(self, pictures: Sequence[Picture]) -> Float32:
        """Pictures as the source's processor gives them, float32 [n, 3, height, width]."""
        self._need()
        if self.info.pictures is None:
            raise UsageError(f"session of {self.info.name}", f"task {self.info.task}", "pictures")
        return self.info.pictures.prepare(pictures)

    def transcribe(
        self, audio: Clip, *, sampling_rate: int | None = None, language: str | None = None,
        task: str = "transcribe", timestamps: bool = False, prompt: str = "",
    ) -> Transcript:  # fmt: skip
        """What is said in a WAV file (a path or bytes) or in samples float32 [n], of any length.

        `language` (`en`) None is found out; `task` is transcribe or translate, into English;
        `timestamps` cuts the answer into pieces by time; `prompt` is text that went before.
        """
        from . import listening

        engine = self._need("automatic-speech-recognition")
        samples = self._sound().samples(audio, "audio", sampling_rate)
        one = listening.transcriber(engine, self.info, self._need_tokens())
        wish = listening.wish(one, self._need_tokens(), language, task, timestamps, prompt)
        return one.transcribe(samples, wish)

    def features(self, audio: Clip, *, sampling_rate: int | None = None) -> Float32:
        """Log-mel float32 [mels, frames] of a clip of at most one window, as the source's."""
        sound = self._sound()
        found: Float32 = sound.prepare([sound.samples(audio, "audio", sampling_rate)])[0]
        return found

    def _sound(self) -> AudioInput:
        self._need()
        if self.info.audio is None:
            raise UsageError(f"session of {self.info.name}", f"task {self.info.task}", "sound")
        return self.info.audio

    def run(self, **arrays: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The engine's raw outputs by name for its raw inputs by name."""
        return self._need().run({name: np.asarray(array) for name, array in arrays.items()})

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

    def self_test(self) -> list[GoldenResult]:
        """Prove that this engine on this processor gives the answers that were shipped.

        One result a golden input; UnsupportedError for a bundle without any.
        """
        self._need()
        if self.info.golden is None:
            raise UnsupportedError("self-test", "no golden inputs in this bundle", "a newer build")
        from . import golden

        return golden.compare(self, golden.read(self._bundle, self.info.golden))

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
            for text in _texts(texts)
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

    def _labelled(self, scores: Float32) -> list[dict[str, float]]:
        probabilities = activate(scores, str(self.info.engine.options.get("activation", "softmax")))
        labels = self.info.labels
        return [dict(zip(labels, map(float, row), strict=True)) for row in probabilities]

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

    def _need(self, *tasks: str) -> Engine:
        if self._opened is None:
            raise UsageError(f"session of {self.info.name}", "it is closed", "an open session")
        if tasks and self.info.task not in tasks:
            found, expected = f"task {self.info.task}", " or ".join(tasks)
            raise UsageError(f"session of {self.info.name}", found, expected)
        return self._opened

    def _need_tokens(self) -> Tokens:
        self._need()
        if self._tokens is None:
            raise UsageError(f"session of {self.info.name}", "no tokenizer", "use run(**arrays)")
        return self._tokens

    def _context(self) -> int:
        if self.info.generation is None:
            raise BadInputError("manifest", "no generation section", "one for text-generation")
        return self.info.generation.context_length

    def _check_length(self, ids: Sequence[int]) -> None:
        check_ids(ids)
        if len(ids) >= self._context():
            raise UsageError("prompt", f"{len(ids)} tokens", f"fewer than {self._context()}")


def _open_tokens(bundle: Path, info: Manifest) -> Tokens | None:
    if info.tokenizer is None:
        return None
    # Encoders cut long texts as their source does; a prompt that does not fit is refused, not cut.
    limit = 0 if info.task in GENERATING else info.tokenizer.max_length
    return Tokens(bundle / info.tokenizer.file, limit)


def _open_template(bundle: Path, info: Manifest) -> ChatTemplate | None:
    if info.tokenizer is None or info.tokenizer.template is None:
        return None
    files = (info.tokenizer.template, info.tokenizer.tool_template)
    sources = ((bundle / file).read_text(encoding="utf-8") if file else "" for file in files)
    source, tool_source = sources
    return ChatTemplate(source, info.tokenizer.special_tokens, tool_source)


def _texts(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str) or any(not isinstance(text, str) for text in texts):
        raise UsageError("texts", f"{texts!r:.100}", "a list of strings")
    return texts


def _sampling_options(given: SamplingKeywords) -> SamplingOptions:
    known = [field.name for field in dataclasses.fields(SamplingOptions)]
    if unknown := sorted(given.keys() - set(known)):
        raise UsageError("generate", f"unknown option {', '.join(unknown)}", ", ".join(known))
    return SamplingOptions(**given)
