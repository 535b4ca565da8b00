"""Rows that a recipe's own script writes: `[data] script = "file:function"` beside the recipe."""
from __future__ import annotations

from pathlib import Path

from edgecompile.entry import imported
from edgecompile.errors import BadInputError, UsageError
from edgecompile.recipe import Recipe


def rows(recipe: Recipe, folder: Path) -> tuple[Path, Path]:
    """Call the function with a folder to fill; it gives the training and the held-out file.

    The same bytes at every call, or a run cannot be resumed.
    """
    script, where = recipe.data.script, f"recipe {recipe.name} [data] script"
    place, _, name = script.partition(":")
    file = recipe.folder / f"{place}.py"
    if not name or not file.is_file():
        raise UsageError(where, f"{script!r} names no file beside it", "file:function")
    function = getattr(imported(str(file)), name, None)
    if not callable(function):
        raise UsageError(where, f"no function {name!r} in {file}", "file:function")
    found = tuple(map(Path, function(folder)))
    if len(found) != 2 or not all(one.is_file() for one in found):
        shown = ", ".join(map(str, found)) or "nothing"
        raise BadInputError(where, shown, "the training and the held-out file")
    return found[0], found[1]
