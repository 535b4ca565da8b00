"""allocate_bits: a budget holds in the bundle that ships, and every target gets the same bits."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgecompile import sources, verify
from edgecompile.build import BuildResult, build
from edgecompile.cache import tree_bytes
from edgecompile.errors import EdgecompileError, UsageError
from edgecompile.model import Model
from edgecompile.passes import PassResult
from edgecompile.passes.allocate_bits import AllocateBits
from edgecompile.plan import Request, plan
from tests import tiny

TEXT = tiny.corpus()
FEW: dict[str, Any] = {"texts": 8, "length": 32, "calibrated": False}
SETTINGS = tuple(f"allocate_bits.{key}={json.dumps(value)}" for key, value in FEW.items())


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llama(tmp_path_factory.mktemp("models") / "tiny-llama", hidden_size=128)


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return sources.load(sources.resolve(str(folder)), quiet)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "text.jsonl"
    lines = (json.dumps({"text": d.text}) for part in TEXT.parts.values() for d in part)
    file.write_text("\n".join(lines))
    return file


def built(folder: Path, data: Path, out: Path, targets: tuple[str, ...], *settings: str) -> Any:
    request = Request(str(folder), targets, out, settings=(*SETTINGS, *settings), data=data)
    return {result.target: result for result in build(plan(request), quiet)}


def chosen(result: BuildResult) -> Counter[str]:
    """How many tensors have which scheme in the manifest."""
    manifest = json.loads((result.bundle / "manifest.json").read_text())
    return Counter(r["detail"].partition(",")[0] for p in manifest["passes"] for r in p["layers"]
                   if r["detail"].startswith("int"))  # fmt: skip


@pytest.mark.slow
def test_mean_bits_give_one_allocation_and_one_digest_for_all_targets(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    found = built(folder, data, tmp_path, ("cpu", "gguf"), "allocate_bits.bits_per_weight=6")
    assert chosen(found["cpu"]) == chosen(found["gguf"])
    assert len(chosen(found["cpu"])) == 2, "both widths are used"
    both = verify.compare(found["cpu"].bundle, found["gguf"].bundle)
    assert both.differences == ()
    assert both.digests[0] == both.digests[1]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "gguf"])
def test_a_budget_in_bytes_holds_for_the_bundle_that_ships(
    folder: Path, data: Path, tmp_path: Path, target: str
) -> None:
    sizes = {}
    for bits in (4, 8):
        out = tmp_path / str(bits)
        options = (f"quantize.bits={bits}", f"quantize.embedding_bits={bits}")
        overrides = f'quantize.overrides={{"*"={bits}}}'
        request = Request(str(folder), (target,), out, settings=(*options, overrides), data=data)
        (result,) = build(plan(request), quiet)
        sizes[bits] = tree_bytes(result.bundle)
    middle = sum(sizes.values()) // 2
    limit = f"allocate_bits.max_size={middle / 1e6}MB"
    result = built(folder, data, tmp_path / "mixed", (target,), limit)[target]
    found = tree_bytes(result.bundle)
    assert sizes[4] < found <= middle
    assert found > middle - 0.25 * (sizes[8] - sizes[4]), "most of the budget is spent"


@pytest.mark.parametrize("options", [{}, {"max_size": "9MB", "bits_per_weight": 5.0}], ids=str)
def test_both_budgets_or_none_are_refused(
    folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    settings = tuple(f"allocate_bits.{k}={json.dumps(v)}" for k, v in (FEW | options).items())
    with pytest.raises(UsageError, match="one of the two") as caught:
        plan(Request(str(folder), ("cpu",), tmp_path, settings=settings))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "setting",
    [
        "max_size=9", 'max_size="infMB"', 'max_size="nanMB"', 'max_size="9 apples"',
        "bits_per_weight=nan", "bits_per_weight=inf", "bits_per_weight=-4", "bits_per_weight=99",
        "widths=[2,4]", "widths=[]", "widths=4", "texts=0", "length=1", "bit_per_weight=5",
    ],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused_by_plan(
    folder: Path, tmp_path: Path, setting: str
) -> None:
    settings = (f"allocate_bits.{setting}",)
    if "max_size" not in setting and not setting.startswith("bits_per"):
        settings += ("allocate_bits.bits_per_weight=6",)
    with pytest.raises(UsageError):
        plan(Request(str(folder), ("cpu",), tmp_path, settings=settings))


def test_a_wrong_key_names_the_nearest(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'bits_per_weight'"):
        plan(Request(str(folder), ("cpu",), tmp_path, settings=("allocate_bits.bit_per_weight=5",)))


def allocated(model: Model, tmp_path: Path, **options: Any) -> PassResult:
    return AllocateBits(**FEW | options)(model, tiny.work(tmp_path, TEXT))


def bits_per_weight(model: Model, bits: dict[str, int]) -> float:
    """Codes and 16 bits a scale, over all weights."""
    spent = total = 0
    for name, width in bits.items():
        rows, columns = model.weights.infos[name].shape
        scales = {4: columns // 32, 8: 1, 16: 0}[width]
        spent += rows * (columns * width + 16 * scales)
        total += rows * columns
    return spent / total


@pytest.mark.parametrize(
    ("widths", "mean"), [((4, 8), 5.0), ((4, 8), 7.5), ((4, 8, 16), 7.0), ((8, 16), 10.0)]
)
def test_the_mean_is_within_its_budget_and_close_to_it(
    model: Model, tmp_path: Path, widths: tuple[int, ...], mean: float
) -> None:
    bits = dict(allocated(model, tmp_path, widths=widths, bits_per_weight=mean).model.bits)
    assert set(bits.values()) <= set(widths)
    assert mean - 1 < bits_per_weight(model, bits) <= mean


def test_all_widths_are_used_where_they_pay(model: Model, tmp_path: Path) -> None:
    result = allocated(model, tmp_path, widths=(4, 8, 16), bits_per_weight=9.0)
    assert set(result.model.bits.values()) >= {8, 16}
    left = [name for name, width in result.model.bits.items() if width == 16]
    from edgecompile.passes.quantize_rtn import QuantizeRtn

    after = QuantizeRtn(bits=4)(result.model, tiny.work(tmp_path / "w"))
    rows = {row.name: row for row in after.layers}
    assert {rows[name].detail for name in left} == {"left as floats by allocate_bits"}
    assert not set(left) & set(after.model.quantized)


def test_more_bits_never_cost_more(model: Model, tmp_path: Path) -> None:
    losses = [
        sum(row.error for row in allocated(model, tmp_path / str(m), bits_per_weight=m).layers)
        for m in (4.6, 5.5, 6.5, 8.2)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({"bits_per_weight": 4.2}, r"take 4\.500 bits a weight; expected 4\.2 at most"),
        ({"bits_per_weight": 6.0, "widths": (8, 16)}, r"take 8\.\d+ bits.*add 4 to widths"),
    ],
)
def test_too_small_a_mean_tells_both_numbers(
    model: Model, tmp_path: Path, options: dict[str, Any], numbers: str
) -> None:
    with pytest.raises(UsageError, match=numbers):
        allocated(model, tmp_path, **options)


def test_too_small_a_bundle_tells_both_numbers(folder: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgecompileError) as caught:
        built(folder, data, tmp_path, ("gguf",), "allocate_bits.max_size=0.1MB")
    assert caught.value.exit_code == 2
    assert "the smallest bundle takes 0." in str(caught.value)
    assert "expected 0.1MB at most" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
