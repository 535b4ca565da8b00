"""Progress on a terminal: one bar a step with its ETA; nothing where nobody looks."""
from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Eta


class Bars:
    """A `passes.Progress`: call it with (what, done, total). Use it in a `with` block."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        columns = (TextColumn("{task.description:<28}"), BarColumn(), TimeElapsedColumn(), Eta())
        shown = console.is_terminal and not quiet
        self._bars = Progress(*columns, console=console, transient=True, disable=not shown)
        self._tasks: dict[str, TaskID] = {}
        self.prefix = ""

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show `done` of `total`; a finished step leaves the screen."""
        name = f"{self.prefix}{what}"
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total)
        self._bars.update(self._tasks[name], completed=done, total=total)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(name))
