"""Which of several products of one input can be one product."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgecompile.numerics.schemes import Scheme


def joinable(
    names: Sequence[str], sources: Mapping[str, str], schemes: Mapping[str, Scheme]
) -> list[list[str]]:
    """Runs of layers whose weights have codes on one scheme, and all or none a bias.

    `sources` has the source tensor of each name with `.weight` or `.bias` that there is.
    """
    groups: list[list[str]] = []
    before = None
    for name in names:
        scheme = schemes.get(sources.get(f"{name}.weight", ""))
        kind = scheme and (scheme, f"{name}.bias" in sources)
        if kind and kind == before:
            groups[-1].append(name)
        else:
            groups.append([name])
        before = kind
    return groups
