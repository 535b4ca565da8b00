"""A method of an ExecuTorch program: its values, its memory and its instructions."""
from __future__ import annotations

from collections.abc import Sequence

from executorch.exir import schema
from executorch.exir.scalar_type import ScalarType

from edgecompile.backends.executorch_graph.scope import XNNPACK

ALIGNMENT = 64  # bytes
BYTES = {
    ScalarType.FLOAT: 4, ScalarType.INT: 4, ScalarType.LONG: 8, ScalarType.DOUBLE: 8,
    ScalarType.HALF: 2, ScalarType.SHORT: 2, ScalarType.CHAR: 1, ScalarType.BYTE: 1,
    ScalarType.BOOL: 1,
}  # fmt: skip


class Method:
    """Values are numbers; `plan` makes what the file holds of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._values: list[schema.EValue] = []
        self._inputs: list[int] = []
        self._outputs: list[int] = []
        self._instructions: list[schema.Instruction] = []
        self._operators: list[schema.Operator] = []
        self._delegates: list[schema.BackendDelegate] = []
        self._known: dict[object, int] = {}
        self._planned = 0  # bytes

    def input(self, dtype: ScalarType, *sizes: int) -> int:
        """A tensor that the caller owns; `sizes` are upper bounds."""
        value = self._tensor(dtype, sizes)
        self._inputs.append(value)
        return value

    def constant(self, dtype: ScalarType, sizes: Sequence[int], buffer: int, name: str) -> int:
        """A tensor in the constant segment; the runtime does not read its name, `decode` does."""
        value = self._tensor(dtype, sizes, buffer=buffer, fixed=True)
        tensor = self._values[value].val
        assert isinstance(tensor, schema.Tensor)
        tensor.extra_tensor_info = schema.ExtraTensorInfo(fully_qualified_name=name)
        return value

    def buffer(self, dtype: ScalarType, *sizes: int, fixed: bool = False) -> int:
        """A tensor in planned memory; its shape changes up to `sizes` unless it is `fixed`."""
        count = BYTES[dtype]
        for size in sizes:
            count *= size
        offset = self._planned
        self._planned += -(-count // ALIGNMENT) * ALIGNMENT
        place = schema.AllocationDetails(1, offset % 2**32, offset // 2**32)
        return self._tensor(dtype, sizes, place=place, fixed=fixed)

    def output(self, value: int) -> None:
        """What a call gives back."""
        self._outputs.append(value)

    def scalar(self, value: bool | int | float | None) -> int:
        """A number, or nothing, as an argument of operators."""
        key = (type(value), value)
        if key not in self._known:
            kinds = {bool: schema.Bool, int: schema.Int, float: schema.Double}
            made = schema.Null() if value is None else kinds[type(value)](value)
            self._known[key] = self._add(made)
        return self._known[key]

    def number(self) -> int:
        """An integer that an operator puts out."""
        return self._add(schema.Int(0))

    def call(self, operator: str, *arguments: int) -> None:
        """An operator `namespace::name.overload`; its out argument is the last one.

        Operators of tensors get it twice, as argument and as result.
        """
        name, _, overload = operator.partition(".")
        if operator not in self._known:
            self._known[operator] = len(self._operators)
            self._operators.append(schema.Operator(name, overload))
        given = list(arguments)
        if overload.endswith("out"):
            given.append(given[-1])
        self._instruct(schema.KernelCall(self._known[operator], given))

    def delegate(self, segment: int, *arguments: int) -> None:
        """A call of XNNPACK's subgraph in that segment."""
        place = schema.BackendDelegateDataReference(schema.DataLocation.SEGMENT, segment)
        self._instruct(schema.DelegateCall(len(self._delegates), list(arguments)))
        self._delegates.append(schema.BackendDelegate(XNNPACK.delegate, place, []))

    def plan(self) -> schema.ExecutionPlan:
        """The method as the program's flatbuffer has it."""
        chain = schema.Chain([], [], self._instructions, None)
        return schema.ExecutionPlan(
            self.name, schema.ContainerMetadata("", ""), self._values, self._inputs,
            self._outputs, [chain], self._operators, self._delegates, [0, self._planned], None,
        )  # fmt: skip

    def _tensor(
        self, dtype: ScalarType, sizes: Sequence[int], buffer: int = 0,
        place: schema.AllocationDetails | None = None, fixed: bool = False,
    ) -> int:  # fmt: skip
        dynamism = schema.TensorShapeDynamism
        return self._add(schema.Tensor(
            dtype, 0, list(sizes), list(range(len(sizes))), False, 0, buffer, place,
            dynamism.STATIC if fixed else dynamism.DYNAMIC_BOUND,
        ))  # fmt: skip

    def _add(self, value: schema.KernelTypes) -> int:
        self._values.append(schema.EValue(value))
        return len(self._values) - 1

    def _instruct(self, what: schema.InstructionArguments) -> None:
        self._instructions.append(schema.Instruction(what))
