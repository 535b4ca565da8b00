"""`edgecompile compress`: what makes another checkpoint alone, to a plain Hugging Face folder."""
from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

from edgecompile import build, bundle, cache, sources
from edgecompile.errors import UsageError
from edgecompile.model import Model
from edgecompile.passes import Progress
from edgecompile.plan import Request, plan
from edgecompile.recipe import RESHAPING

TARGET = "null"  # no engine: passes that reshape are the same for all targets
CARD = "README.md"


@dataclass(frozen=True)
class Compressed:
    """The folder that was written, and the models after and before."""

    folder: Path
    model: Model
    origin: Model

    @property
    def notes(self) -> tuple[str, ...]:
        """What each pass did, a line each."""
        return self.model.source.notes[len(self.origin.source.notes) :]


def compress(request: Request, out: Path, progress: Progress) -> Compressed:
    """Run the recipe's attention, prune and distill stages and write what they made to `out`.

    UsageError where there are none, or where `out` exists and is not to be replaced.
    """
    if out.exists() and not request.overwrite:
        raise bundle.existing(out)
    planned = plan(dataclasses.replace(request, targets=(TARGET,), out=out.parent, overwrite=True))
    [target] = planned.targets
    passes = tuple(choice for choice in target.passes if choice.stage in RESHAPING)
    if not passes:
        raise UsageError(
            request.model, "no [attention], [prune] or [distill] in its recipe",
            "one of them",
            "--set prune.method=gradient --set prune.ratio=0.3, for example",
        )  # fmt: skip
    origin = sources.load(planned.source, progress)
    model = build.run_passes(planned, dataclasses.replace(target, passes=passes), origin, progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    with cache.private_folder(out.parent, out.name) as staging:
        shutil.copytree(model.folder, staging, dirs_exist_ok=True)
        done = Compressed(out, model, origin)
        _add_to_card(staging / CARD, done)
        bundle.seal(staging, out, request.overwrite)
    return done


def _add_to_card(card: Path, done: Compressed) -> None:
    """What was done to the model, after what its card says."""
    text = card.read_text(encoding="utf-8").rstrip() + "\n\n" if card.is_file() else ""
    lines = "".join(f"- {note}\n" for note in done.notes)
    text += (
        f"## Made smaller by edgecompile\n\n{done.origin.parameters:,} parameters became "
        f"{done.model.parameters:,}.\n\n{lines}"
    )
    card.write_text(text, encoding="utf-8", newline="\n")
