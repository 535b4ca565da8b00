"""Core ML programs in a .pte: the partitioner, bytes without chance, and the constants in them.

ExecuTorch packs an .mlpackage (MIL protobuf, weights in MILBlob storage) into one buffer. Both are
written and read on any system; only Apple's devices run them.
"""
from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.libmilstoragepython import _BlobStorageReader
from coremltools.proto import MIL_pb2, Model_pb2
from executorch.backends.apple.coreml import executorchcoreml
from executorch.backends.apple.coreml.compiler import CoreMLBackend
from executorch.backends.apple.coreml.partition import CoreMLPartitioner
from numpy.typing import NDArray

from edgecompile.backends.executorch_graph.delegated import Constants, Values
from edgecompile.backends.executorch_graph.pte_read import Bytes
from edgecompile.errors import BadInputError
from edgecompile.numerics.schemes import QuantizedTensor, Scheme

ROOT = "lowered_module"  # what ExecuTorch's runtime looks for in the buffer
PACKAGE = "model.mlpackage"
DEBUG = ("debug_info.json", f"{PACKAGE}/executorch_debug_handle_mapping.json")
MODEL, WEIGHTS = "com.apple.CoreML/model.mlmodel", "com.apple.CoreML/weights"
BLOB = "weights/weight.bin"
CODES = "constexpr_blockwise_shift_scale"  # iOS 18: codes by groups, MIL's own operator

TYPES = MIL_pb2.DataType
READERS: dict[int, tuple[str, Any]] = {
    TYPES.FLOAT32: ("read_float_data", np.float32), TYPES.FLOAT16: ("read_fp16_data", np.float16),
    TYPES.INT8: ("read_int8_data", np.int8), TYPES.INT4: ("read_int4_data", np.int8),
}  # fmt: skip
BITS = {TYPES.INT8: 8, TYPES.INT4: 4}


def partitioner(precision: str) -> CoreMLPartitioner:
    """All of the graph, computed in `precision` (float32, float16)."""
    specs = CoreMLBackend.generate_compile_specs(
        minimum_deployment_target=ct.target.iOS18, compute_precision=ct.precision(precision)
    )
    return CoreMLPartitioner(compile_specs=specs)


def settled(payload: bytes) -> bytes:
    """The same program under names from its content: exporters draw random ones.

    Tables for ExecuTorch's debugger are left out.
    """
    with _unpacked(payload) as root:
        for name in DEBUG:
            (root / name).unlink(missing_ok=True)
        file = root / PACKAGE / "Data" / MODEL
        spec = Model_pb2.Model.FromString(file.read_bytes())
        file.write_bytes(spec.SerializeToString(deterministic=True))
        blob = root / PACKAGE / "Data" / "com.apple.CoreML" / BLOB
        content = file.read_bytes() + (blob.read_bytes() if blob.exists() else b"")
        digest = hashlib.sha256(content).hexdigest()
        _write_manifest(root / PACKAGE / "Manifest.json", digest)
        names = root / "metadata.json"
        known = json.loads(names.read_text("utf-8")) | {"identifier": f"edgecompile_{digest[:32]}"}
        names.write_text(json.dumps(known), "utf-8")
        flat: bytes = executorchcoreml.flatten_directory_contents(str(root.resolve()))
        return flat


def constants(payload: bytes, _: Callable[[str], Bytes]) -> Constants:
    """Floats and codes by the name of what gives them in the program; norms' epsilons.

    All is in the payload: nothing is asked of the data by key.
    """
    with _unpacked(payload) as root:
        data = root / PACKAGE / "Data"
        spec = Model_pb2.Model.FromString((data / MODEL).read_bytes())
        blob = data / "com.apple.CoreML" / BLOB
        reader = _BlobStorageReader(str(blob)) if blob.exists() else None
        found: dict[str, Values] = {}
        epsilons: set[float] = set()
        for function in spec.mlProgram.functions.values():
            for block in function.block_specializations.values():
                for call in block.operations:
                    if call.type == CODES:
                        found[call.outputs[0].name] = _codes(call, reader)
                    elif call.type == "const" and _is_float(call.attributes["val"]):
                        found[call.outputs[0].name] = _array(call.attributes["val"], reader)
                    elif call.type == "layer_norm":
                        epsilons |= _epsilons(call, found)
        return Constants(found, epsilons)


def stored(payload: bytes) -> Iterator[tuple[str, int, Bytes]]:
    """Name, place in the file of weights, and bytes of each constant there; int4 one a byte."""
    with _unpacked(payload) as root:
        data = root / PACKAGE / "Data"
        spec = Model_pb2.Model.FromString((data / MODEL).read_bytes())
        blob = data / "com.apple.CoreML" / BLOB
        reader = _BlobStorageReader(str(blob)) if blob.exists() else None
        for function in spec.mlProgram.functions.values():
            for block in function.block_specializations.values():
                for call in block.operations:
                    yield from _stored(call, reader)


def _stored(call: Any, reader: _BlobStorageReader) -> Iterator[tuple[str, int, Bytes]]:
    values = [("val", call.attributes["val"])] if call.type == "const" else []
    values += [
        (name, argument.value)
        for name, given in call.inputs.items() for argument in given.arguments
        if argument.WhichOneof("binding") == "value"
    ]  # fmt: skip
    for name, value in values:
        known = value.type.tensorType.dataType in READERS
        if known and value.WhichOneof("value") == "blobFileValue":
            found = np.ascontiguousarray(_array(value, reader)).reshape(-1).view(np.uint8)
            yield f"{call.outputs[0].name}.{name}", value.blobFileValue.offset, found


@contextmanager
def _unpacked(payload: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        if not executorchcoreml.unflatten_directory_contents(payload, folder):
            raise BadInputError("Core ML delegate", "a damaged buffer", "an .mlpackage")
        root = Path(folder) / ROOT
        if not (root / PACKAGE / "Data" / MODEL).is_file():
            raise BadInputError("Core ML delegate", f"no {ROOT}/{PACKAGE}", "an .mlpackage")
        yield root


def _write_manifest(file: Path, digest: str) -> None:
    """The package's table of contents; its items need identifiers that differ, no more."""
    names = {digest[:32]: MODEL, digest[32:]: WEIGHTS}
    items = {
        identifier: {
            "author": "com.apple.CoreML", "description": "edgecompile",
            "name": path.rpartition("/")[2], "path": path,
        }
        for identifier, path in sorted(names.items())
        if (file.parent / "Data" / path).exists()
    }  # fmt: skip
    table = {"fileFormatVersion": "1.0.0", "itemInfoEntries": items,
             "rootModelIdentifier": digest[:32]}  # fmt: skip
    file.write_text(json.dumps(table, indent=4, sort_keys=True), "utf-8")


def _codes(call: Any, reader: _BlobStorageReader) -> QuantizedTensor:
    data, scale = (call.inputs[name].arguments[0].value for name in ("data", "scale"))
    codes, scales = _array(data, reader), _array(scale, reader).astype(np.float32)
    columns, groups = codes.shape[1], scales.shape[1]
    scheme = Scheme(BITS[data.type.tensorType.dataType], columns // groups if groups > 1 else 0)
    return QuantizedTensor(scheme, codes, scales)


def _epsilons(call: Any, found: dict[str, Values]) -> set[float]:
    """A norm's, unless float16 has no such small number: coremltools takes its least instead."""
    value = np.asarray(found[call.inputs["epsilon"].arguments[0].name]).reshape(-1)
    lost = value.dtype == np.float16 and value[0] < np.finfo(np.float16).smallest_normal
    return set() if lost else {float(value[0])}


def _is_float(value: Any) -> bool:
    kind: int = value.type.tensorType.dataType
    return kind in (TYPES.FLOAT32, TYPES.FLOAT16)


def _array(value: Any, reader: _BlobStorageReader) -> NDArray[Any]:
    """A constant of the program, from the file of weights or in its own text."""
    kind = value.type.tensorType
    shape = tuple(dimension.constant.size for dimension in kind.dimensions)
    name, dtype = READERS[kind.dataType]
    if value.WhichOneof("value") == "blobFileValue":
        stored = np.asarray(getattr(reader, name)(value.blobFileValue.offset))
        found: NDArray[Any] = stored.view(dtype).reshape(shape)
        return found
    tensor = value.immediateValue.tensor
    if tensor.WhichOneof("value") == "bytes":
        return np.frombuffer(tensor.bytes.values, dtype).reshape(shape)
    return np.array(tensor.floats.values, dtype).reshape(shape)
