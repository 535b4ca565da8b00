"""Products of 8-bit codes and 8-bit activations (W8A8), in place of MatMulNBits.

The engine multiplies whole rows of integers, u8 x s8 into s32, and scales once a column: on a
processor with VNNI two to three times as fast as MatMulNBits, which scales once a block. Codes are
int8 [in, out], scales float32 [out]. Dynamic: the operator finds one range for its whole input
(DynamicQuantizeMatMul). Static: QuantizeLinear and DequantizeLinear with a calibrated range, which
onnxruntime fuses. Weights that read one value are joined, so that it is quantized once.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgecompile.backends.joining import CODES, JOIN, SCALES
from edgecompile.backends.onnx_graph.encode import DOMAIN, Site
from edgecompile.numerics.ranges import Range
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme

W8 = Scheme(8, 0)
FACTORS = ".inputs"
RANGE = RANGE_SCALE, RANGE_ZERO = ".range_scale", ".range_zero"

Activations = Literal["blocks", "dynamic", "static"]


@dataclass(frozen=True)
class Form:
    """How products are written; `accuracy_level` is that of MatMulNBits, for `blocks`."""

    accuracy_level: int
    activations: Activations = "blocks"
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def whole_rows(self, name: str, scheme: Scheme) -> bool:
        """Whether a weight is multiplied as int8 rows; a static one has a calibrated range."""
        calibrated = self.activations == "dynamic" or name in self.ranges
        return self.activations != "blocks" and scheme == W8 and calibrated


@dataclass(frozen=True)
class Product:
    """One weight's product: its node, what it puts out after the bias, the bias in the graph.

    `bias_source` is empty where the bias has no source tensor of its own.
    """

    site: Site
    output: str
    bias: str = ""
    bias_source: str = ""


def joined(products: Iterable[Product], tensors: Mapping[str, QuantizedTensor],
           form: Form) -> list[list[Product]]:  # fmt: skip
    """Products that share input, factors and range, and all or none a bias; in their order."""
    groups: dict[tuple[Any, ...], list[Product]] = {}
    for product in products:
        name = product.site.source
        factors = tensors[name].inputs
        key = (
            product.site.node.input[0], None if factors is None else factors.tobytes(),
            form.ranges.get(name), bool(product.bias),
            name if product.bias and not product.bias_source else "",
        )  # fmt: skip
        groups.setdefault(key, []).append(product)
    return list(groups.values())


def nodes(group: Sequence[Product], tensors: Mapping[str, QuantizedTensor],
          form: Form) -> list[onnx.NodeProto]:  # fmt: skip
    """One product for the group, cut apart after it where there are several."""
    name = _name(group)
    value = group[0].site.node.input[0]
    made: list[onnx.NodeProto] = []
    if tensors[group[0].site.source].inputs is not None:
        made.append(
            helper.make_node("Mul", [value, name + FACTORS], [f"{name}.scaled"], f"{name}.scaled")
        )
        value = f"{name}.scaled"
    whole = group[0].output if len(group) == 1 else f"{name}.product"
    bias = joint_bias(group) or group[0].bias
    write = _static if form.activations == "static" else _dynamic
    made += write(name, value, bias, whole)
    if len(group) > 1:
        outputs = [product.output for product in group]
        made.append(
            helper.make_node("Split", [whole, f"{name}.sizes"], outputs, f"{name}.cut", axis=-1)
        )
    return made


def _dynamic(name: str, value: str, bias: str, output: str) -> list[onnx.NodeProto]:
    inputs = [value, name + CODES, name + SCALES, *(["", bias] if bias else [])]
    return [helper.make_node("DynamicQuantizeMatMul", inputs, [output], name, domain=DOMAIN)]


def _static(name: str, value: str, bias: str, output: str) -> list[onnx.NodeProto]:
    grid = [name + RANGE_SCALE, name + RANGE_ZERO]
    stored = [name + CODES, name + SCALES]
    codes, back, weight = (f"{name}.{what}" for what in ("quantized", "back", "weight"))
    plain = f"{name}.plain" if bias else output
    made = [
        helper.make_node("QuantizeLinear", [value, *grid], [codes], codes),
        helper.make_node("DequantizeLinear", [codes, *grid], [back], back),
        helper.make_node("DequantizeLinear", stored, [weight], weight, axis=1),
        helper.make_node("MatMul", [back, weight], [plain], name),
    ]
    if bias:
        made.append(helper.make_node("Add", [plain, bias], [output], f"{name}.add"))
    return made


def initializers(group: Sequence[Product], tensors: Mapping[str, QuantizedTensor],
                 form: Form) -> list[onnx.TensorProto]:  # fmt: skip
    """What `nodes` reads: `a|b.codes` int8 [in, out of a + out of b], and so on."""
    name, members = _name(group), [tensors[product.site.source] for product in group]
    arrays: dict[str, NDArray[Any]] = {
        name + CODES: np.concatenate([tensor.codes.T for tensor in members], axis=1),
        name + SCALES: np.concatenate([tensor.scales[:, 0] for tensor in members]),
    }
    if members[0].inputs is not None:
        arrays[name + FACTORS] = members[0].inputs
    if form.activations == "static":
        found = form.ranges[group[0].site.source]
        arrays[name + RANGE_SCALE] = np.array(found.scale, np.float32)
        arrays[name + RANGE_ZERO] = np.array(found.zero, np.uint8)
    if len(group) > 1:
        arrays[f"{name}.sizes"] = np.array([len(tensor.codes) for tensor in members], np.int64)
    return [numpy_helper.from_array(np.asarray(a, order="C"), key) for key, a in arrays.items()]


def joint_bias(group: Sequence[Product]) -> str:
    """`a.bias|b.bias` of a group of several products; empty if there is none."""
    if len(group) == 1 or not group[0].bias:
        return ""
    return JOIN.join(product.bias_source for product in group)


def bias_initializer(
    group: Sequence[Product], values: Sequence[NDArray[Any]]
) -> onnx.TensorProto:
    """The group's biases, one after the other."""
    return numpy_helper.from_array(np.concatenate(values), joint_bias(group))


def _name(group: Sequence[Product]) -> str:
    return JOIN.join(product.site.source for product in group)


def tensor(codes: NDArray[Any], scales: NDArray[Any], factors: Float32 | None) -> QuantizedTensor:
    """Back from codes int8 [in, out] and scales [out], those of one weight alone."""
    kept = np.ascontiguousarray(codes.T, np.int8), np.array(scales[:, None], np.float32)
    return QuantizedTensor(W8, *kept, None if factors is None else np.array(factors, np.float32))
