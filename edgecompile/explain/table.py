"""An explanation for people: tables on a terminal."""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from edgecompile.explain import Explanation
from edgecompile.explain.attention import Attention
from edgecompile.explain.restored import Restored
from edgecompile.explain.saliency import Saliency

TOP = 10  # rows of a table; the file has all


def show(found: Explanation, console: Console) -> None:
    """What is broken, where it was lost, attention, saliency, and the change."""
    what, unit = found.kind
    subject = found.subject
    console.print(
        f"[bold]{subject.options.bundle.name}[/bold]: {what} {_number(found.now.divergence)} "
        f"{unit}".rstrip() + f", on {found.inputs['samples']} answers to held-out inputs"
    )
    _metrics(found, console)
    _restored(found, "layer", console)
    _restored(found, "tensor", console)
    _noise(found, console)
    if isinstance(found.attention, str):
        console.print(f"\nattention: {found.attention}", markup=False)
    else:
        for part in found.attention:
            _attention(part, console)
    _saliency(found.saliency, console)
    for note in found.notes:
        console.print(f"note: {note}", markup=False)


def _metrics(found: Explanation, console: Console) -> None:
    broken, after = found.now.broken(found.limits), found.change.predicted
    rows = [
        (name, _number(value), _number(found.limits.get(name)), "broken" if name in broken else "",
         _number(after.metrics[name] if after else None))
        for name, value in found.now.metrics.items()
    ]  # fmt: skip
    _table(console, "", ("metric", "bundle ", "limit ", "", "changed "), rows)


def _restored(found: Explanation, kind: str, console: Console) -> None:
    """The parts that win most back, beside their cost."""
    rows = [row for row in found.restored if row.kind == kind]
    if not rows:
        return
    unit = found.kind[1]
    title = f"\n{kind}s restored to the source's floats, each alone ({len(rows)} in all)"
    columns = (kind, f"won back{f', {unit}' * bool(unit)} ", "", "+ bytes, float16 ", "8 bits ")
    _table(console, title, columns, [_restored_row(row) for row in rows[:TOP]])


def _restored_row(row: Restored) -> tuple[str, ...]:
    measured = "" if row.measured else "(share)"
    cost = f"{row.bytes_float16:,}", f"{row.bytes_int8:,}"
    return row.name, _number(row.gain), measured, *cost


def _noise(found: Explanation, console: Console) -> None:
    """The layers with the most noise of their own."""
    rows = sorted(found.noise, key=lambda row: _last(row.alone_db, row.weight_db))
    title = (
        f"\nsignal-to-noise ratios, dB, the lowest of {len(rows)}: of the weight; of the output "
        "with this layer alone quantized; with all quantized"
    )
    columns = ("layer", "grid", "weight ", "alone ", "cumulative ")
    _table(console, title, columns, [
        (row.layer, row.scheme, *map(_decibels, (row.weight_db, row.alone_db, row.cumulative_db)))
        for row in rows[:TOP]
    ])  # fmt: skip


def _last(alone: float, weight: float) -> float:
    """To sort by the output's ratio, or the weight's where none was measured."""
    return weight if math.isnan(alone) else alone


def _attention(found: Attention, console: Console) -> None:
    layers, heads = found.divergence.shape
    order = sorted(range(layers), key=lambda layer: -found.divergence[layer].mean())
    few = min(heads, 16)
    title = (
        f"\n{found.name}: Jensen-Shannon divergence of each head, 1e-3 nats, mean over "
        f"{found.queries} queries"
        + (f"; the {TOP} layers that differ most of {layers}" if layers > TOP else "")
    )
    columns = ("layer", "mean ", *(f"{head} " for head in range(few)))
    _table(console, title, columns, [
        (str(layer), *(f"{1000 * v:.2f}" for v in (found.divergence[layer].mean(),
                                                   *found.divergence[layer, :few])))
        for layer in sorted(order[:TOP])
    ])  # fmt: skip


def _saliency(found: Saliency | str, console: Console) -> None:
    if isinstance(found, str):
        console.print(f"\nsaliency: {found}", markup=False)
        return
    answer = f", the last {found.answer} of the answer" if found.answer else ""
    console.print(
        f"\nsaliency (gradient x input) of {len(found.source)} tokens{answer}: rank correlation "
        f"of source and bundle {_number(found.correlation)}"
    )
    if found.tokens:
        order = sorted(range(len(found.tokens)), key=lambda i: -found.source[i])[:TOP]
        _table(console, "", ("at ", "token", "source ", "bundle "), [
            (str(at), found.tokens[at], f"{found.source[at]:.3f}", f"{found.found[at]:.3f}")
            for at in order
        ])  # fmt: skip


def show_change(found: Explanation, console: Console) -> None:
    """The change of the recipe, with what is predicted of it."""
    change = found.change
    if not change.bits:
        console.print(f"\nno change: {change.why}", markup=False)
        return
    console.print(
        f"\nThe smallest change that is predicted to be enough: {_count(len(change.bits))}, "
        f"{change.cost:+,} bytes:\n\n{found.toml}\n", markup=False, soft_wrap=True,
    )  # fmt: skip


def _table(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    """A column whose name ends in a space is aligned to the right."""
    if title:
        console.print(title, markup=False)
    drawn = Table(box=None, pad_edge=False)
    for column in columns:
        right, style = column.endswith(" "), "right" if column.endswith(" ") else "left"
        drawn.add_column(
            column.strip(), justify=style, no_wrap=right, overflow="fold"  # type: ignore[arg-type]
        )
    for row in rows:
        drawn.add_row(*(cell.replace("[", "\\[") for cell in row))
    console.print(drawn)


def _count(tensors: int) -> str:
    return "1 tensor" if tensors == 1 else f"{tensors} tensors"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if math.isfinite(value) else "none"


def _decibels(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.1f}" if math.isfinite(value) else "exact"
