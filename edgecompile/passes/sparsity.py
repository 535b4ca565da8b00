"""What the passes that put zeros into weights share: pattern, text, the checkpoint they write."""
from __future__ import annotations

import math
import shutil
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgecompile.errors import UnsupportedError, UsageError
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.passes import CHECKPOINT, NOTE, Effort, LayerReport, PassResult, Work
from edgecompile.passes.grid import in_range
from edgecompile.structure import roles

if TYPE_CHECKING:
    from torch import Tensor

    from edgecompile.numerics.sparse import Pattern

LEAST = 0.25  # of zeros: quantizers keep those of a weight that has so many (numerics/gptq.py)
RUNS = 2.6  # of a block, each up to the inputs that are wanted next, and once more to its end


@dataclass(frozen=True)
class SparseOptions:
    """Either `sparsity`, the share of zeros, or a `pattern` N:M: N of M neighbours are not zero.

    `texts` are windows of `length` tokens for a decoder, whole texts for an encoder. Matrices in
    blocks are pruned, but for those whose names fit a pattern in `skip`.
    """

    name: ClassVar[str] = "prune"
    reads_text: ClassVar[tuple[str, ...]] = ("calibration",)
    reads_target: ClassVar[bool] = False
    sparsity: float = 0.0
    pattern: str = ""
    texts: int = 64
    length: int = 512
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what means nothing, before anything is read."""
        in_range(self.name, texts=(self.texts, 1, 1e6), length=(self.length, 2, 1e6))
        if bool(self.sparsity) == bool(self.pattern):
            found = "both sparsity and pattern" if self.pattern else "neither sparsity nor pattern"
            raise UsageError("[prune]", found, "one of the two: sparsity = 0.5, or pattern = '2:4'")
        try:
            share = self.zeros().share
        except ValueError as error:
            raise UsageError("[prune] pattern", str(error), 'N:M, as "2:4"') from error
        in_range(self.name, zeros=(share, LEAST, 0.99))

    def zeros(self) -> Pattern:
        """Where zeros go."""
        from edgecompile.numerics.sparse import Pattern

        return Pattern.parse(self.pattern) if self.pattern else Pattern(self.sparsity)

    def headers(self, model: Model) -> Model:
        """The same tensors, zeros among them."""
        if model.entry_point:
            raise UnsupportedError(
                model.name, "a torch module, which has no checkpoint to write",
                "a Hugging Face model", 'leave prune out: --set prune.method="none"',
            )  # fmt: skip
        return model

    def no_gain(self, backend: str) -> str:
        """Measured (docs/smaller-models.md): no engine of ours skips zeros, nor stores them apart.

        The null backend has no engine.
        """
        said = f"{self.name}: {backend} computes and stores zeros as any other weight"
        return "" if backend == "null" else said

    def preview(self, model: Model) -> dict[str, Scheme]:
        """No tensor gets codes."""
        return {}

    def effort(self, model: Model) -> Effort:
        """As quantize_gptq: blocks run RUNS times on the text; a matrix takes out x in^2."""
        shapes = [model.weights.infos[n].matrix for n, r in roles(model).items() if r == "linear"]
        tokens = self.texts * min(self.length, 512)
        run = sum(out * columns for out, columns in shapes) * tokens * RUNS
        moments = sum(columns * columns for _, columns in shapes) * tokens / 2
        solved = sum(out * columns**2 for out, columns in shapes) * 4
        blocks = max(1, int(model.common_config.get("num_hidden_layers", 1)))
        widest = max((columns for _, columns in shapes), default=0)
        memory = 8 * sum(map(math.prod, shapes)) / blocks + 16 * widest**2
        return Effort(run + moments + solved, float(model.parameters), memory)

    def rule(self, weight: Tensor, hessian: Tensor) -> tuple[Tensor, str]:
        """A weight [out, in] with zeros, given its inputs' mean x^T x; words for the report."""
        raise NotImplementedError

    def __call__(self, model: Model, work: Work) -> PassResult:
        """Write the checkpoint with zeros; the model is that from here on."""
        from edgecompile import codes
        from edgecompile.calibration.batches import text_batches
        from edgecompile.calibration.walk import Walk
        from edgecompile.numerics.parallel import one_thread_a_piece
        from edgecompile.pruning import checkpoint, sparse

        self.headers(model)
        batches = text_batches(model, work.corpus().calibration, self.texts, self.length)
        with one_thread_a_piece(), closing(Walk(model, batches, work.folder)) as walk:
            sparse.Sparsifier(walk, work, self.zeros(), self.rule, self.skip).run()
        changed, rows = sparse.pruned(work.folder), codes.layers(work.folder)
        if not changed:
            raise UsageError(self.name, f"no tensor of {model.name} matched", "a matrix in a block")
        folder = work.folder / CHECKPOINT
        shutil.rmtree(folder, ignore_errors=True)

        def tensor(name: str) -> Tensor:
            before = model.weights[name]
            return (changed[name].to(before.dtype) if name in changed else before).contiguous()

        checkpoint.write(model, folder, model.config, list(model.weights), tensor)
        note = f"{self.name}: {self.zeros().name} of {len(changed)} matrices are zeros"
        if self.pattern:
            note = f"{self.name}: {self.pattern} zeros in {len(changed)} matrices"
        (work.folder / NOTE).write_text(note, encoding="utf-8")
        changed.release()
        for number in codes.parts(work.folder):
            (work.folder / codes.PART.format(number)).unlink()  # the checkpoint has them
        other = "no matrix in a block"
        layers = (rows.get(n, LayerReport(n, "skipped", other)) for n in model.weights)
        return PassResult(checkpoint.adopt(model, folder, note), tuple(layers))
