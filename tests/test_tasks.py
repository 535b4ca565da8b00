"""Tasks: one description each, the same names in the compiler and in the runtime."""

from __future__ import annotations

from edgecompile import recipe, tasks
from edgecompile.bundle import READMES
from edgecompile.checks.limits import REQUIRED
from edgecompile.runtime.manifest import TASKS


def test_the_runtime_opens_every_task() -> None:
    assert set(TASKS) == set(tasks.EVERY)


def test_a_recipe_may_name_every_task() -> None:
    assert set(recipe.Task.__args__) == {"", *tasks.EVERY}  # type: ignore[attr-defined]


def test_every_task_has_metrics_that_a_check_must_have_measured() -> None:
    assert set(REQUIRED) == set(tasks.EVERY)


def test_every_tasks_readme_says_how_to_call_it() -> None:
    assert set(READMES) == set(tasks.EVERY)
