"""A bundle opened in a fresh process, through the runtime that was copied into it."""
from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from .errors import EdgecompileError
from .tokens import Encoded, Pair
from .wire import Arrays, raise_error, receive, send

Float32 = NDArray[np.float32]


class Worker:
    """A child process that runs `python -I BUNDLE/runtime --worker`; see wire.py for the protocol.

    The constructor returns once the bundle is open. A child that dies becomes an EdgecompileError
    that names the signal or exit status and ends with the child's last words.
    """

    def __init__(
        self,
        bundle: Path | str,
        python: str = sys.executable,
        *,
        verify: str = "once",
        threads: int | None = None,
        provider: str = "",
    ) -> None:
        self._bundle, self._python = Path(bundle), python
        self._options = ["--worker", "--verify", verify]
        if threads is not None:
            self._options += ["--threads", str(threads)]
        if provider:
            self._options += ["--provider", provider]
        self._start([python, "-IB", str(Path(bundle) / "runtime"), *self._options])

    def by_installed_runtime(self) -> Worker:
        """The same bundle opened once more, by the runtime of this installation."""
        other = Worker.__new__(Worker)
        package = Path(__file__).parent
        code = (
            f"import sys; sys.path.insert(0, {str(package.parent.parent)!r}); "
            f"from pathlib import Path; from {__package__}._main import main; "
            f"sys.exit(main(Path({str(self._bundle)!r}), sys.argv[1:]))"
        )
        other._start([self._python, "-B", "-c", code, *self._options])
        return other

    def _start(self, command: Sequence[str]) -> None:
        """Start what speaks wire.py, and wait for its hello."""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the child)
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr
        )
        try:
            self._hello = self._reply()[0]
        except BaseException:
            self._stop()
            raise

    def hello(self) -> dict[str, Any]:
        """What the worker said when the bundle was open: versions, threads, load_seconds, ..."""
        return self._hello

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included."""
        ids: list[list[int]] = self._ask({"op": "tokenize", "texts": list(texts)})[0]["ids"]
        return ids

    def render(self, cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """`text` and `ids` of each conversation, or `refused`; a case is `Session.render`'s."""
        reply = self._ask({"op": "render", "cases": [dict(case) for case in cases]})[0]
        return cast("list[dict[str, Any]]", reply["prompts"])

    def logits(
        self, ids: Sequence[int], source: Sequence[int] | Float32 | None = None
    ) -> Iterator[Float32]:
        """Logits after each token of `ids`, as float32 chunks [<=128, vocab] in order.

        An encoder-decoder has a `source` too: ids, or `features`.
        """
        given = {"ids": np.asarray(ids, np.int64)}
        if source is not None:
            kind = None if isinstance(source, np.ndarray) else np.int64
            given["source"] = np.asarray(source, kind)
        self._send({"op": "logits"}, given)
        more = True
        while more:
            header, arrays = self._reply()  # an error is a request's last reply: it may raise here
            more = header["more"]
            try:
                yield arrays["logits"]
            except GeneratorExit:  # a consumer that stops early must not leave replies in the pipe
                while more:
                    more = self._reply()[0]["more"]
                raise

    def embed(self, texts: Sequence[str], normalize: bool | None = None) -> Float32:
        """float32 [n, dim]; `normalize` None is the bundle's own way."""
        header = {"op": "embed", "texts": list(texts), "normalize": normalize}
        return self._ask(header)[1]["embeddings"]

    def embed_ids(self, ids: Sequence[Sequence[int]], normalize: bool | None = None) -> Float32:
        """As `embed`, of token ids (special tokens included) instead of texts."""
        header = {"op": "embed", "ids": [list(row) for row in ids], "normalize": normalize}
        return self._ask(header)[1]["embeddings"]

    def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Label -> probability for each text."""
        answer = self._ask({"op": "classify", "texts": list(texts)})[0]["probabilities"]
        return cast("list[dict[str, float]]", answer)

    def encode_whole(self, inputs: Sequence[str | Pair]) -> list[Encoded]:
        """Texts or pairs of texts as the shipped tokenizer gives them."""
        found = self._ask({"op": "encode", "inputs": list(inputs)})[0]["encoded"]
        return [Encoded(**one) for one in found]

    def rows(
        self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None,
        at: Sequence[Sequence[int]] | None = None,
    ) -> list[Float32]:  # fmt: skip
        """The graph's own scores: [width] a token list, or [tokens, width], of the tokens `at`."""
        header = {"op": "rows", "ids": list(ids), "types": types, "at": at}
        found = self._ask(header)[1]
        return [found[str(index)] for index in range(len(ids))]

    def score(self, pairs: Sequence[Pair]) -> Float32:
        """A number a pair, float32 [n]."""
        return self._ask({"op": "score", "pairs": list(pairs)})[1]["scores"]

    def prepare(self, pictures: Sequence[NDArray[np.uint8]]) -> Float32:
        """Pictures uint8 [h, w, 3] as the graph takes them, float32 [n, 3, height, width]."""
        arrays = {str(index): picture for index, picture in enumerate(pictures)}
        return self._ask({"op": "prepare"}, arrays)[1]["pixels"]

    def look(self, pixels: Float32) -> Float32:
        """The graph's own rows float32 [n, width] for prepared pictures [n, 3, height, width]."""
        return self._ask({"op": "look"}, {"pixels": pixels})[1]["rows"]

    def run(self, **arrays: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The engine's raw outputs by name for the inputs by name."""
        return self._ask({"op": "run"}, arrays)[1]

    def generate_timed(
        self, ids: Sequence[int], new_tokens: int, sound: Float32 | None = None
    ) -> dict[str, Any]:
        """Greedy `tokens` (stop tokens do not stop it), `first_token_ms`, `tokens_per_second`.

        And `token_ms`, the times of those after the first; of bundles before it was known, none.
        """
        header = {"op": "generate", "new_tokens": new_tokens}
        given = {} if sound is None else {"sound": sound}
        return self._ask(header, {"ids": np.asarray(ids, np.int64), **given})[0]

    def steps(self, ids: Sequence[int], new_tokens: int) -> tuple[list[int], Float32]:
        """Greedy tokens after the ids, and the logits [tokens, vocab] that each was taken from."""
        header = {"op": "steps", "new_tokens": new_tokens}
        found, arrays = self._ask(header, {"ids": np.asarray(ids, np.int64)})
        return found["tokens"], arrays["logits"]

    def write(self, prompt: str, new_tokens: int) -> tuple[str, list[int]]:
        """Text generated greedily from a raw prompt, up to a stop token, and greedy token ids."""
        found = self._ask({"op": "write", "prompt": prompt, "new_tokens": new_tokens})[0]
        return found["text"], found["tokens"]

    def sample(self, logits: Float32, count: int, **options: Any) -> list[int]:
        """Tokens that the bundle's sampler draws from logits float32 [vocab], `count` of them."""
        header = {"op": "sample", "count": count, "options": options}
        return cast("list[int]", self._ask(header, {"logits": logits})[0]["tokens"])

    def features(self, samples: Float32) -> Float32:
        """Log-mel float32 [mels, frames] of samples [n] at the model's rate, of one window."""
        return self._ask({"op": "features"}, {"samples": samples})[1]["features"]

    def transcribe(self, samples: Float32, **options: Any) -> dict[str, Any]:
        """Fields of transcription.Transcript, and `seconds`; `options` are session.transcribe's."""
        return self._ask({"op": "transcribe", "options": options}, {"samples": samples})[0]

    def observe(self) -> list[dict[str, Any]]:
        """What the bundle makes of the golden texts now (golden.observe)."""
        return cast("list[dict[str, Any]]", self._ask({"op": "observe"})[0]["cases"])

    def self_test(self) -> list[dict[str, Any]]:
        """Fields of golden.GoldenResult and `passed`, one entry a golden input."""
        return cast("list[dict[str, Any]]", self._ask({"op": "self_test"})[0]["results"])

    def peak_memory(self, *, reset: bool = False) -> float | None:
        """Peak resident memory in MiB since the start or the last reset; None where unknown."""
        mib: float | None = self._ask({"op": "peak_memory", "reset": reset})[0]["mib"]
        return mib

    def close(self) -> None:
        """End the child; safe to call twice and after a crash."""
        if self._child.poll() is None:
            with contextlib.suppress(EdgecompileError, OSError):
                self._ask({"op": "close"})
        self._stop()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(
        self, header: dict[str, Any], arrays: Arrays | None = None
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        self._send(header, arrays)
        return self._reply()

    def _send(self, header: dict[str, Any], arrays: Arrays | None = None) -> None:
        try:
            send(cast("IO[bytes]", self._child.stdin), header, arrays)
        except (OSError, ValueError) as error:  # a broken pipe, or closed by close()
            raise self._death() from error

    def _reply(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        message = receive(cast("IO[bytes]", self._child.stdout))
        if message is None:
            raise self._death()
        if not message[0]["ok"]:
            raise_error(message[0]["error"])
        return message

    def _death(self) -> EdgecompileError:
        """What ended the child: call when its pipe broke."""
        try:
            code = self._child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return EdgecompileError("worker", "it closed its output but still runs", "replies")
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        words = ""
        if not self._stderr.closed:
            self._stderr.seek(max(0, self._stderr.seek(0, 2) - 2000))
            words = self._stderr.read().decode(errors="replace").strip()
        return EdgecompileError("worker", f"the process ended with {how}", "a reply", words)

    def _stop(self) -> None:
        for stream in (self._child.stdin, self._child.stdout, self._stderr):
            with contextlib.suppress(OSError):
                cast("IO[bytes]", stream).close()
        try:
            self._child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
