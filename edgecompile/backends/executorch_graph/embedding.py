"""Look up rows of an embedding, in codes or floats, by ExecuTorch's own operators."""
from __future__ import annotations

from executorch.exir.scalar_type import ScalarType

from edgecompile.backends.executorch_graph import encode
from edgecompile.backends.executorch_graph.method import Method
from edgecompile.backends.executorch_graph.pte import PteFile, Stored
from edgecompile.model import Model

FLOAT = ScalarType.FLOAT
EMBEDDING_TYPE = {4: ScalarType.BYTE, 8: ScalarType.CHAR}


def look_up(
    method: Method, file: PteFile, model: Model, source: str, span: tuple[int, int], *,
    as_linear: bool = False,
) -> dict[str, Stored]:  # fmt: skip
    """Add the call for (ids, out); where the table's data are, for a tied head to find them.

    `as_linear`: codes in the order that the head's product reads (encode.embedding).
    """
    ids, out = span
    if source not in model.quantized:
        values = model.dense(source)
        at, stored = file.constant(source, values)
        no, table = method.scalar(False), method.constant(FLOAT, values.shape, at, source)
        method.call("aten::embedding.out", table, ids, method.scalar(-1), no, no, out)
        return {source: stored}
    tensor, found, arguments = model.quantized[source], {}, []
    kinds = EMBEDDING_TYPE[tensor.scheme.bits], FLOAT
    for array, kind, end in zip(
        encode.embedding(tensor, as_linear=as_linear), kinds, (".codes", ".scales"), strict=True
    ):
        name = source + end
        at, found[name] = file.constant(name, array)
        arguments.append(method.constant(kind, array.shape, at, name))
    bounds = method.scalar(tensor.scheme.low), method.scalar(tensor.scheme.high)
    call = encode.EMBEDDING_CALL[tensor.scheme.bits]
    method.call(call, *arguments, method.scalar(None), *bounds, ids, out)
    return found
