"""Vulkan graphs in a .pte: the partitioner, and the constants in them.

The graph is a flatbuffer (ExecuTorch's backends/vulkan/serialization/schema.fbs); the constants are
data of the program by key.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner
from executorch.backends.vulkan.serialization import vulkan_graph_serialize as serial
from executorch.backends.vulkan.serialization.vulkan_graph_schema import (
    VkDataType,
    VkGraph,
    VkTensor,
)
from numpy.typing import NDArray

from edgecompile.backends import packing
from edgecompile.backends.executorch_graph.delegated import Constants, Values
from edgecompile.backends.executorch_graph.pte_read import Bytes
from edgecompile.numerics.schemes import QuantizedTensor, Scheme

DTYPES: dict[int, Any] = {
    VkDataType.UINT8: np.uint8, VkDataType.INT8: np.int8, VkDataType.FLOAT16: np.float16,
    VkDataType.FLOAT32: np.float32,
}  # fmt: skip
LINEAR, TABLE = "et_vk.linear_q4gsw.default", "et_vk.embedding_q4gsw.default"
PREPACK = "et_vk.prepack.default"
DEQUANTIZE = "torchao.dequantize_affine.default"
NORM = "aten.native_layer_norm.default"


def partitioner(precision: str) -> VulkanPartitioner:
    """What its operators cover, in `precision` (float32, float16); the CPU computes the rest."""
    return VulkanPartitioner({"force_fp16": True} if precision == "float16" else {})


def settled(payload: bytes) -> bytes:
    """As it is: its exporter draws nothing."""
    return payload


def constants(payload: bytes, data: Callable[[str], Bytes]) -> Constants:
    """Floats by the key of their data, codes by that of both; norms' epsilons."""
    return _Graph(payload, data).constants()


class _Graph:
    """One delegate's graph, and how the data of a key are read."""

    def __init__(self, payload: bytes, data: Callable[[str], Bytes]) -> None:
        header = serial.VulkanDelegateHeader.from_bytes(
            payload[: serial.VulkanDelegateHeader.EXPECTED_LENGTH]
        )
        end = header.flatbuffer_offset + header.flatbuffer_size
        graph = payload[header.flatbuffer_offset : end]
        self._graph: VkGraph = serial.flatbuffer_to_vk_graph(graph)
        self._data = data
        self._packed: dict[int, VkTensor] = {}  # number of a prepacked value -> its constant

    def constants(self) -> Constants:
        """Every float, and the codes that an operator multiplies or looks up."""
        found: dict[str, Values] = {}
        epsilons = set()
        for value in self._graph.values:
            tensor = value.value
            if self._constant(tensor) and tensor.datatype in (
                VkDataType.FLOAT32, VkDataType.FLOAT16
            ):  # fmt: skip
                found[self._key(tensor)] = self._array(tensor)
        for call in self._graph.chain:
            if call.name == PREPACK:
                self._packed[call.args[1]] = self._graph.values[call.args[0]].value
            elif call.name in (LINEAR, TABLE):
                first = 1 if call.name == LINEAR else 0
                codes, scales = (self._tensor(call.args[first + at]) for at in (0, 1))
                place = f"{self._key(codes)} {self._key(scales)}"
                found[place] = self._four_bits(codes, scales, transposed=call.name == LINEAR)
            elif call.name == DEQUANTIZE:
                codes, scales = (self._tensor(call.args[at]) for at in (0, 2))
                place = f"{self._key(codes)} {self._key(scales)}"
                low = self._graph.values[call.args[5]].value.int_val
                found[place] = self._unpacked(codes, scales, bits=4 if low == -8 else 8)
            elif call.name == NORM:
                epsilons.add(float(np.float32(self._graph.values[call.args[4]].value.double_val)))
        return Constants(found, epsilons)

    def _four_bits(self, codes: VkTensor, scales: VkTensor, *, transposed: bool) -> QuantizedTensor:
        """Two a byte, the even column low, code + 8; a product's scales are [groups, out]."""
        whole = packing.unpack(self._array(codes), 4)
        values = self._array(scales)
        values = np.ascontiguousarray(values.T) if transposed else values
        return _quantized(whole, values[: len(whole)], 4)

    def _unpacked(self, codes: VkTensor, scales: VkTensor, bits: int) -> QuantizedTensor:
        return _quantized(self._array(codes), self._array(scales), bits)

    def _tensor(self, number: int) -> VkTensor:
        """A value that is a constant, or was one before it was packed for the device."""
        return self._packed.get(number) or self._graph.values[number].value

    @staticmethod
    def _constant(value: Any) -> bool:
        return isinstance(value, VkTensor) and value.constant_id >= 0

    def _key(self, tensor: VkTensor) -> str:
        key: str = self._graph.constants[tensor.constant_id].named_key
        return key

    def _array(self, tensor: VkTensor) -> NDArray[Any]:
        data = self._data(self._key(tensor)).tobytes()
        return np.frombuffer(data, DTYPES[tensor.datatype]).reshape(tensor.dims)


def _quantized(codes: NDArray[Any], scales: NDArray[Any], bits: int) -> QuantizedTensor:
    groups = scales.shape[1]
    scheme = Scheme(bits, codes.shape[1] // groups if groups > 1 else 0)
    return QuantizedTensor(scheme, codes, scales.astype(np.float32))
