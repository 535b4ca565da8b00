"""quantize_rtn: round every matrix to nearest on the shared grid; no data is read."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgecompile import codes
from edgecompile.model import Model
from edgecompile.passes import LayerReport, PassResult, Work
from edgecompile.passes.grid import GridOptions, weight_error


@dataclass(frozen=True)
class QuantizeRtn(GridOptions):
    """Rounding to nearest; with `scale_search` each group's scale is the one that loses least."""

    name: ClassVar[str] = "quantize_rtn"
    reads_text: ClassVar[tuple[str, ...]] = ()
    reads_target: ClassVar[bool] = False

    def __call__(self, model: Model, work: Work) -> PassResult:
        """Quantize all products' weights and the input embedding (with a tied head, one tensor)."""
        schemes = self.schemes(model)
        done = set(codes.parts(work.folder))
        for number, (name, scheme) in enumerate(schemes.items()):
            work.progress("quantize", number, len(schemes))
            if number not in done:
                weight = model.weights.matrix(name)
                tensor = self.nearest(name, weight, scheme, model)
                error = weight_error(weight, tensor)
                row = LayerReport(name, "changed", scheme.name, error)
                codes.add_part(work.folder, number, codes.Part({name: tensor}, layers=[row]))
                model.weights.release()
        work.progress("quantize", len(schemes), len(schemes))
        return self.result(model, work.folder)
