from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgecompile.checks import Limits
from edgecompile.checks.limits import (
    EXPORT,
    REQUIRED,
    TABLE,
    int8_activations,
    limits_for,
    width_of,
)
from edgecompile.errors import UsageError
from edgecompile.recipe import CheckSpec
from edgecompile.target import Budget

DECISION = Path(__file__).parents[1] / "docs" / "decisions" / "0003-limits.md"


def test_the_width_is_the_smallest_number_of_bits() -> None:
    assert width_of([]) == "float"
    assert width_of(["int8-channel", "int8-g32"]) == "int8"
    assert width_of(["int8-channel", "int4-g32"]) == "int4"
    assert width_of(["int8-channel", "int2-g32"]) == "int2"


def test_below_four_bits_the_limits_of_four_bits_hold() -> None:
    assert limits_for("int2", True, {}) == limits_for("int4", True, {})


@pytest.mark.parametrize("metric", TABLE)
def test_wider_weights_never_have_a_looser_limit(metric: str) -> None:
    values, higher = TABLE[metric]
    assert list(values) == sorted(values, reverse=higher)


def test_the_code_holds_the_numbers_of_the_decision() -> None:
    text = DECISION.read_text("utf-8")
    numbers = set(map(float, re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-\d+)?(?![\w.])", text)))
    for table in (TABLE, EXPORT):
        for metric, (values, _) in table.items():
            assert set(values) <= numbers, metric


def test_every_required_metric_has_a_limit() -> None:
    for metrics in REQUIRED.values():
        assert set(metrics) <= set(limits_for("int8", False, {}))


def test_a_recipe_can_tighten_a_limit_and_never_loosen_it() -> None:
    rule = limits_for("int8", False, {})
    assert limits_for("int8", False, {"kl_mean": 0.001})["kl_mean"] == 0.001
    assert limits_for("int8", False, {"kl_mean": 1.0})["kl_mean"] == rule["kl_mean"]
    assert limits_for("int8", False, {"cosine_p1": 0.999})["cosine_p1"] == 0.999
    assert limits_for("int8", False, {"cosine_p1": 0.5})["cosine_p1"] == rule["cosine_p1"]
    assert limits_for("int8", False, {"size": 12.5})["size"] == 12.5


def test_an_unknown_metric_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'kl_mean'"):
        limits_for("int8", False, {"kl_meen": 0.1})


def test_limits_come_from_the_recipe_and_the_targets_budget() -> None:
    spec = CheckSpec(texts=300, tokens=2048, limits={"kl_mean": 0.01, "size": 10.0})
    found = Limits.of(spec, Budget(size_mb=20.0, memory_mib=512.0), ("no-gain",))
    assert (found.texts, found.tokens, found.allow) == (300, 2048, ("no-gain",))
    assert found.stricter == {"kl_mean": 0.01, "size": 10.0, "peak_memory": 512.0}


@pytest.mark.parametrize(
    ("engine", "options", "tensors", "expected"),
    [
        ("onnxruntime", {"accuracy_level": 4}, ["t"], True),
        ("onnxruntime", {"accuracy_level": 1}, ["t"], False),
        ("onnxruntime", {"accuracy_level": 4}, [], False),
        ("llama_cpp", {}, ["t"], True),
        ("llama_cpp", {}, [], False),
    ],
)
def test_which_engines_round_activations(
    engine: str, options: dict[str, int], tensors: list[str], expected: bool
) -> None:
    manifest = {"tensors": tensors, "engine": {"name": engine, "options": options}}
    assert int8_activations(manifest) is expected
