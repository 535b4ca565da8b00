"""The same .ort bytes from the same graph: ONNX Runtime writes one table in a hash map's order.

An .ort file is a flatbuffer, built from its end: the model first, then the table of kernels'
types, then the root. The last two are written anew in sorted order before the model's bytes, which
stay as they are: offsets inside a flatbuffer are relative.
"""
from __future__ import annotations

import struct
from typing import Any

ALIGNMENT = 64  # more than any vector in the file asks for
MARK = b"ORTM"


def canonical(data: bytes) -> bytes:
    """The file with its table of kernels' types sorted."""
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import (
        InferenceSession,
    )

    root = InferenceSession.GetRootAsInferenceSession(bytearray(data), 0)
    table = root.Model()._tab.Pos
    vtable = table - struct.unpack_from("<i", data, table)[0]
    start = min(table, vtable)  # all that the model refers to lies after it
    version = _string(root.OrtVersion())
    resolver = _resolver(root.KernelTypeStrResolver())
    # mark, vtable (size, size of the table, its four fields), the root table's own four fields
    head = struct.pack("<I4s6H", 20, MARK, 12, 16, 4, 8, 0, 12)
    at = len(head)
    blobs = version, resolver
    places = [at + 16, at + 16 + len(version)]
    end = places[1] + len(resolver)
    # Aligned from the end, as all in a flatbuffer: where the model began, what was before it says.
    padding = -(end + len(data) - start) % ALIGNMENT
    model = end + padding + table - start
    inside = struct.unpack_from("<I", resolver)[0]
    fields = struct.pack(
        "<iIII", at - 8, places[0] - at - 4, model - at - 8, places[1] + inside - at - 12
    )
    return b"".join((head, fields, *blobs, bytes(padding), data[start:]))


def _string(text: bytes) -> bytes:
    """Length, bytes, a zero, padded to a multiple of 8."""
    whole = struct.pack("<I", len(text)) + text + b"\0"
    return whole + bytes(-len(whole) % 8)


def _resolver(found: Any) -> bytes:
    """A flatbuffer of its own with the table's entries in order of their names."""
    import flatbuffers
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs import (
        KernelTypeStrResolver as Resolver,
    )

    builder = flatbuffers.Builder(1024)
    entries = [found.OpKernelTypeStrArgs(i) for i in range(found.OpKernelTypeStrArgsLength())]
    entries.sort(key=lambda entry: bytes(entry.OpId()))
    offsets = [_operator(builder, entry) for entry in entries]
    vector = _vector(builder, Resolver.KernelTypeStrResolverStartOpKernelTypeStrArgsVector, offsets)
    Resolver.KernelTypeStrResolverStart(builder)
    Resolver.KernelTypeStrResolverAddOpKernelTypeStrArgs(builder, vector)
    builder.Finish(Resolver.KernelTypeStrResolverEnd(builder))
    data = bytes(builder.Output())
    return data + bytes(-len(data) % 8)


def _operator(builder: Any, found: Any) -> int:
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs import (
        OpIdKernelTypeStrArgsEntry as Entry,
    )

    kinds = [found.KernelTypeStrArgs(i) for i in range(found.KernelTypeStrArgsLength())]
    kinds.sort(key=lambda kind: bytes(kind.KernelTypeStr()))
    offsets = [_kind(builder, kind) for kind in kinds]
    vector = _vector(
        builder, Entry.OpIdKernelTypeStrArgsEntryStartKernelTypeStrArgsVector, offsets
    )
    name = builder.CreateString(found.OpId())
    Entry.OpIdKernelTypeStrArgsEntryStart(builder)
    Entry.OpIdKernelTypeStrArgsEntryAddOpId(builder, name)
    Entry.OpIdKernelTypeStrArgsEntryAddKernelTypeStrArgs(builder, vector)
    return int(Entry.OpIdKernelTypeStrArgsEntryEnd(builder))


def _kind(builder: Any, found: Any) -> int:
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs import (
        KernelTypeStrArgsEntry as Entry,
    )

    offsets = [_argument(builder, found.Args(index)) for index in range(found.ArgsLength())]
    vector = _vector(builder, Entry.KernelTypeStrArgsEntryStartArgsVector, offsets)
    name = builder.CreateString(found.KernelTypeStr())
    Entry.KernelTypeStrArgsEntryStart(builder)
    Entry.KernelTypeStrArgsEntryAddKernelTypeStr(builder, name)
    Entry.KernelTypeStrArgsEntryAddArgs(builder, vector)
    return int(Entry.KernelTypeStrArgsEntryEnd(builder))


def _argument(builder: Any, found: Any) -> int:
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs import (
        ArgTypeAndIndex as Argument,
    )

    Argument.ArgTypeAndIndexStart(builder)
    Argument.ArgTypeAndIndexAddArgType(builder, found.ArgType())
    Argument.ArgTypeAndIndexAddIndex(builder, found.Index())
    return int(Argument.ArgTypeAndIndexEnd(builder))


def _vector(builder: Any, begin: Any, offsets: list[int]) -> int:
    begin(builder, len(offsets))
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())
