"""Each planted fault is caught, at its faintest known magnitude, and the report says where."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.faults import edits
from tests.faults.application import seen
from tests.faults.kinds import every_fault
from tests.faults.planting import Fault, Outcome, Plant, checked, planted, reseal
from tests.faults.twins import Clean, Clones, Twin, copied, unseen_token

Outcomes = Callable[[Fault], Outcome]
DECODER = Twin("decoder", "gguf", "gptq", 8)


def nothing(*_: object) -> None:
    """A change that changes nothing."""


def unchanged_files(bundle: Path, _: Clean, __: float) -> None:
    """Every file that a fault may be in, read and written again."""
    with edits.manifest(bundle), edits.table(bundle / "tokenizer" / "tokenizer.json"):
        edits.runtime(bundle, "batching.py", "BATCH_TEXTS = 64", "BATCH_TEXTS = 64  # texts")


def unchanged_gguf(bundle: Path, clean: Clean, magnitude: float) -> None:
    """Numbers and tensors of a GGUF file."""
    unchanged_files(bundle, clean, magnitude)
    edits.gguf_number(bundle, "llama.rope.freq_base", lambda base: base)
    edits.gguf_tensor(bundle, "token_embd.weight", nothing)


def unchanged_onnx(bundle: Path, _: Clean, __: float) -> None:
    """A graph and its arrays."""
    edits.initializer(bundle, "model.norm.weight", nothing)


def unchanged_openvino(bundle: Path, _: Clean, __: float) -> None:
    """A graph and its constants."""
    edits.xml(bundle, 'causal="false"', 'causal="false"')
    edits.constant(bundle, "model.norm.weight", nothing)


def unchanged_pte(bundle: Path, _: Clean, __: float) -> None:
    """What a .pte file holds by key."""
    edits.named_data(bundle, "epsilon", "f4", nothing)


ROUTES: list[tuple[str, Twin, Plant]] = [
    ("a copy of the source", DECODER, edits.from_wrong_source(nothing)),
    ("a copy of its config", DECODER, edits.from_wrong_config(nothing)),
    ("its codes", DECODER, edits.from_wrong_codes(nothing)),
    ("a GGUF file", DECODER, unchanged_gguf),
    ("an ONNX graph", Twin("decoder", "onnxruntime", "gptq", 8), unchanged_onnx),
    ("an OpenVINO graph", Twin("decoder", "openvino", "gptq", 8), unchanged_openvino),
    ("a .pte file", Twin("encoder", "executorch", "rtn", 8), unchanged_pte),
]
ALL = every_fault()
TWINS = list({fault.twin.name: fault.twin for fault in ALL}.values())
QUICK = {fault.twin.name for fault in ALL if not fault.slow}


SLOW = {"a .pte file": pytest.mark.slow}


def asked(fault: Fault, known: str) -> Any:
    """Its test: in CI unless it is slow; what is `known` to go wrong has to."""
    marks = [pytest.mark.slow] if fault.slow else []
    if known:
        marks.append(pytest.mark.xfail(strict=True, reason=known))
    return pytest.param(fault, id=fault.name, marks=marks)


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> Clones:
    return Clones(tmp_path_factory.mktemp("twins"))


@pytest.fixture(scope="module")
def outcomes(clones: Clones, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What the check says of each fault, asked once."""

    @cache
    def outcome(fault: Fault) -> Outcome:
        clean, folder = clones.get(fault.twin), tmp_path_factory.mktemp("fault")
        return checked(planted(fault, clean, folder, fault.plain), clean)

    return outcome


@pytest.mark.parametrize("twin", [
    pytest.param(twin, id=twin.name, marks=() if twin.name in QUICK else pytest.mark.slow)
    for twin in TWINS
])
def test_a_clean_twin_that_is_sealed_again_passes(
    twin: Twin, clones: Clones, tmp_path: Path
) -> None:
    clean = clones.get(twin)
    bundle = copied(clean.bundle, tmp_path / "bundle")
    reseal(bundle)
    outcome = checked(bundle, clean)
    assert not outcome.caught, outcome.refused or outcome.wrong


@pytest.mark.parametrize(("_", "twin", "route"), [
    pytest.param(*route, id=route[0], marks=SLOW.get(route[0], ())) for route in ROUTES
])
def test_a_clean_twin_passes_by_every_route_that_a_fault_takes(
    _: str, twin: Twin, route: Plant, clones: Clones, tmp_path: Path
) -> None:
    clean = clones.get(twin)
    fault = Fault("nothing", "nowhere", twin, route, "")
    outcome = checked(planted(fault, clean, tmp_path, 1.0), clean)
    assert not outcome.caught, outcome.refused or outcome.wrong


@pytest.mark.parametrize("fault", [asked(fault, fault.missed) for fault in ALL])
def test_a_fault_is_caught(fault: Fault, outcomes: Outcomes) -> None:
    assert outcomes(fault).caught


@pytest.mark.parametrize("fault", [asked(one, one.misnamed) for one in ALL if not one.missed])
def test_the_stage_of_a_fault_is_named(fault: Fault, outcomes: Outcomes) -> None:
    outcome = outcomes(fault)
    assert outcome.stage == fault.stage, outcome.refused or outcome.wrong


@pytest.mark.parametrize("fault", [asked(one, "") for one in ALL if not one.missed])
def test_step_0_sees_what_is_its_own(fault: Fault, outcomes: Outcomes) -> None:
    assert outcomes(fault).seen_by_step_0 == (fault.stage == "sealed")


@pytest.mark.slow
@pytest.mark.parametrize("fault", [asked(one, "") for one in ALL if one.missed and not one.unseen])
def test_what_the_check_misses_an_application_sees(
    fault: Fault, clones: Clones, tmp_path: Path
) -> None:
    clean = clones.get(fault.twin)
    token, bundle = unseen_token(clean), planted(fault, clean, tmp_path, fault.plain)
    assert seen(bundle, token) != seen(clean.bundle, token)


def test_every_fault_has_a_name_of_its_own() -> None:
    assert len({fault.name for fault in ALL}) == len(ALL)
