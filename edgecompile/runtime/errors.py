"""Errors of the runtime and of the compiler: each class has the exit code that scripts rely on."""
from __future__ import annotations


class EdgecompileError(Exception):
    """What went wrong, said so that the reader can act: where, found, expected, way out."""

    exit_code = 1

    def __init__(self, where: str, found: str, expected: str = "", way_out: str = "") -> None:
        self.where, self.found, self.expected, self.way_out = where, found, expected, way_out
        super().__init__(self.message())

    def message(self) -> str:
        """One paragraph: `where: found; expected ... To go on: ...`."""
        text = f"{self.where}: {self.found}"
        if self.expected:
            text += f"; expected {self.expected}"
        text += "" if text.endswith((".", "!", "?")) else "."
        return text + (f" To go on: {self.way_out}" if self.way_out else "")


class UsageError(EdgecompileError):
    """A wrong command, option, recipe or target file (exit 2)."""

    exit_code = 2


class UnsupportedError(EdgecompileError):
    """This target or backend cannot do what was asked (exit 3)."""

    exit_code = 3


class MissingLibraryError(EdgecompileError):
    """An optional library is not installed (exit 4); the way out is a `pip install` line."""

    exit_code = 4


class BadInputError(EdgecompileError):
    """A model, data file or bundle is damaged, unsafe or not what it claims (exit 5)."""

    exit_code = 5


class LimitError(EdgecompileError):
    """A limit is broken or could not be proven (exit 6)."""

    exit_code = 6


class ResourceError(EdgecompileError):
    """Memory, disk or the time budget ran out (exit 7)."""

    exit_code = 7
