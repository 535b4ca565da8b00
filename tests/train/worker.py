"""What each of several processes runs: `torchrun -m tests.train.worker MODEL ROWS OUT MODE...`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor

from edgecompile.train.loop import Place, fit
from edgecompile.train.options import parse
from tests.train import small

# A large epsilon, since Adam makes steps of full length of gradients that are rounding errors.
OPTIONS: dict[str, Any] = {
    "batch": 8, "steps": 6, "lr": 1e-2, "epsilon": 1e-2, "threads": 1, "save_every": 2
}


def main(model: Path, rows: Path, out: Path, *modes: str) -> None:
    """Fit once a mode, `parallel-precision`; the first process writes losses and weights."""
    from safetensors.torch import save_file

    for mode in modes:
        parallel, precision, accumulate = mode.split("-")
        module, objective = small.classifier(model, rows)
        split = noted(objective)
        options = OPTIONS | {
            "parallel": parallel, "precision": precision, "accumulate": int(accumulate)
        }
        fitted = fit(module, objective, parse(options), Place(out / f"{mode}.train", "a run"))
        if fitted.main:
            found = [row["loss"] for row in fitted.rows]
            norms = [row["gradient_norm"] for row in fitted.rows]
            table = {"losses": found, "norms": norms, "held_out": dict(fitted.held_out)}
            table |= {"split": max(split)}
            (out / f"{mode}.json").write_text(json.dumps(table))
            weights = {n: t.contiguous() for n, t in fitted.module.state_dict().items()}
            save_file(weights, out / f"{mode}.safetensors")


def noted(objective: Any) -> list[int]:
    """How many parameters the module had in parts at each call of the loss."""
    learn, found = objective.loss, list[int]()

    def loss(module: nn.Module, batch: Any) -> Any:
        found.append(sum(isinstance(one, DTensor) for one in module.parameters()))
        return learn(module, batch)

    objective.loss = loss
    return found


if __name__ == "__main__":
    main(*(Path(word) for word in sys.argv[1:4]), *sys.argv[4:])
