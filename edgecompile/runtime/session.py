"""A bundle opened for use: text in, vectors, text, labels or arrays out."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import heads, towers
from .audio import AudioInput, Clip
from .batching import activate, encode_all, look_all
from .engine import Float32
from .errors import BadInputError, UnsupportedError, UsageError
from .generating import Generating
from .manifest import IMAGE_TEXT
from .opened import checked_texts
from .pictures import Picture
from .threads import probed_cores
from .tokens import Encoded, Pair

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


class Session(Generating):
    """Safe to share between threads; close it, or use it in a `with` block."""

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
        return self._need_tokens().encode_whole(inputs if pairs else checked_texts(inputs))  # type: ignore[arg-type]

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
        return heads.token_labels(engine, self.info, texts, self.encode_whole(checked_texts(texts)))

    def fill(self, texts: Sequence[str], *, top_k: int = 5) -> list[list[list[dict[str, Any]]]]:
        """For each text and mask token in it the likeliest tokens as {token, id, score}."""
        engine = self._need("fill-mask")
        return heads.fillings(engine, self.info, self._need_tokens(), checked_texts(texts), top_k)

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
            return towers.label(self, pictures, checked_texts(labels))
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

    def self_test(self) -> list[GoldenResult]:
        """Prove that this engine on this processor gives the answers that were shipped.

        One result a golden input; UnsupportedError for a bundle without any.
        """
        self._need()
        if self.info.golden is None:
            raise UnsupportedError("self-test", "no golden inputs in this bundle", "a newer build")
        from . import golden

        return golden.compare(self, golden.read(self._bundle, self.info.golden))

    def _labelled(self, scores: Float32) -> list[dict[str, float]]:
        probabilities = activate(scores, str(self.info.engine.options.get("activation", "softmax")))
        labels = self.info.labels
        return [dict(zip(labels, map(float, row), strict=True)) for row in probabilities]
