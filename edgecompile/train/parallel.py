"""One process or many, with the same code: data parallel, sharded (FSDP), tensor parallel.

`accelerate launch` and torchrun start the processes; accelerate finds them, and what they run on.
"""
from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from edgecompile.calibration.walk import find_blocks
from edgecompile.errors import MissingLibraryError, UnsupportedError, UsageError
from edgecompile.host import usable_cores
from edgecompile.train.options import Parallel, TrainOptions

One = TypeVar("One")
# Of a block's linear layers by the ends of their names: those that split what they give, and those
# after them that split what they take and add up (Shoeybi et al. 2019, section 3).
GIVES_PARTS = (
    "query", "key", "value", "q_proj", "k_proj", "v_proj", "q_lin", "k_lin", "v_lin",
    "intermediate.dense", "gate_proj", "up_proj", "lin1",
)  # fmt: skip
TAKES_PARTS = ("output.dense", "o_proj", "down_proj", "out_lin", "lin2")


class Processes:
    """The processes of a run, as one of them sees them."""

    def __init__(self, options: TrainOptions) -> None:
        self.accelerator = _accelerator()
        self.count = int(self.accelerator.num_processes)
        self.rank = int(self.accelerator.process_index)
        self.device: torch.device = self.accelerator.device
        self.mode: Parallel = _launched(options.parallel) if self.count > 1 else "data"
        self.accumulate = options.accumulate
        if options.batch < self.readers * options.accumulate:
            raise UsageError(
                "train.batch", f"{options.batch} rows for {self.readers} processes in "
                f"{options.accumulate} parts each", "at least a row a part",
            )  # fmt: skip

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    @property
    def readers(self) -> int:
        """How many processes take rows of their own: with tensor parallel all take the same."""
        return 1 if self.mode == "tensor" else self.count

    @property
    def reader(self) -> int:
        """Which of the readers this process is."""
        return 0 if self.mode == "tensor" else self.rank

    def parts(self, items: Sequence[One]) -> list[Sequence[One]]:
        """This process's rows of a step, in the parts that it takes one after the other."""
        total = self.readers * self.accumulate
        edges = [len(items) * part // total for part in range(total + 1)]
        mine = range(self.reader * self.accumulate, (self.reader + 1) * self.accumulate)
        return [items[edges[part] : edges[part + 1]] for part in mine]

    def place(self, module: nn.Module, partial: bool) -> nn.Module:
        """The module on this process's device, wrapped or sharded; `partial` as the objective's."""
        module = module.to(self.device)
        if self.count == 1:
            return module
        if self.mode == "fsdp":
            return _sharded(module, self._mesh())
        if self.mode == "tensor":
            return _split(module, self._mesh())
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(module, find_unused_parameters=partial)

    def _mesh(self) -> DeviceMesh:
        return init_device_mesh(self.device.type, (self.count,))

    def later(self, module: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Inside, gradients wait: processes add theirs up once a step, with its last part."""
        wrapped = isinstance(module, nn.parallel.DistributedDataParallel)
        return self.accelerator.no_sync(module) if wrapped and not last else nullcontext()

    def add_up(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Sums of every process's numbers, by name; all must have the same names."""
        if self.readers == 1:
            return dict(numbers)
        values = torch.tensor(list(numbers.values()), dtype=torch.float64, device=self.device)
        summed = self.accelerator.reduce(values, "sum").tolist()
        return dict(zip(numbers, summed, strict=True))

    def wait(self) -> None:
        """Go on when every process is here."""
        self.accelerator.wait_for_everyone()


@contextmanager
def processes(options: TrainOptions) -> Iterator[Processes]:
    """The run's processes; inside, torch has the threads that were asked for."""
    before = torch.get_num_threads()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(options.threads or max(1, usable_cores() // here))
    try:
        with warnings.catch_warnings():
            # of changing a module's outputs in place, which no objective does
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
            yield Processes(options)
    finally:
        torch.set_num_threads(before)


def leave() -> None:
    """Take leave of the other processes, when all have come this far."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _accelerator() -> Any:
    try:
        from accelerate import Accelerator
    except ModuleNotFoundError as error:
        found, way_out = "accelerate is not installed", "pip install 'edgecompile[train]'"
        raise MissingLibraryError("train", found, way_out=way_out) from error
    # The precision is ours (precision.py): accelerate has no loss scaling on processors. And where
    # there is no GPU it starts no process group, unless it is told that processors are meant.
    found = Accelerator(mixed_precision="no", cpu=not torch.accelerator.is_available())
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if found.num_processes != started:
        expected = f"{started}, as WORLD_SIZE says"
        raise UsageError("accelerate", f"{found.num_processes} processes", expected)
    return found


def _launched(asked: Parallel) -> Parallel:
    """What the options say, or `accelerate launch --use_fsdp`."""
    named = os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes")
    return "fsdp" if named and asked == "data" else asked


def _sharded(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Every block, then the rest, in equal parts on all processes (torch's FSDP2)."""
    from torch.distributed.fsdp import fully_shard

    for path, block in find_blocks(module):
        if path:
            fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


def _split(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Heads and inner features of every block on all processes, each with a part."""
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    plan: dict[str, Any] = {}
    for path, block in find_blocks(module):
        for name, layer in block.named_modules():
            if path and isinstance(layer, nn.Linear):
                _refuse_uneven(f"{path}.{name}", layer, block, mesh.size())
                style = ColwiseParallel if name.endswith(GIVES_PARTS) else RowwiseParallel
                plan[f"{path}.{name}"] = style()
    if not plan:
        raise UnsupportedError(
            "train.parallel=tensor", f"{type(module).__name__} has no blocks of linear layers",
            "a transformer", "train.parallel=fsdp",
        )  # fmt: skip
    return parallelize_module(module, mesh, plan)


def _refuse_uneven(path: str, layer: nn.Linear, block: nn.Module, count: int) -> None:
    """UnsupportedError for a layer that is not known, or whose heads cannot be shared out."""
    if not path.endswith((*GIVES_PARTS, *TAKES_PARTS)):
        found, names = f"the layer {path}", ", ".join((*GIVES_PARTS, *TAKES_PARTS))
        raise UnsupportedError(
            "train.parallel=tensor", found, f"names that end in {names}", "train.parallel=fsdp"
        )
    sizes = [getattr(part, "head_dim", getattr(part, "attention_head_size", 1))
             for part in block.modules()]  # fmt: skip
    width = layer.out_features if path.endswith(GIVES_PARTS) else layer.in_features
    attention = not path.endswith(("intermediate.dense", "gate_proj", "up_proj", "lin1"))
    heads = width // max(sizes) if attention and path.endswith(GIVES_PARTS) else width
    if heads % count:
        found = f"{path} has {heads} heads or features for {count} processes"
        raise UnsupportedError(
            "train.parallel=tensor", found, "a number that they divide", "train.parallel=fsdp"
        )


def bare(module: nn.Module) -> nn.Module:
    """The module inside accelerate's or torch's wrapper."""
    inner: nn.Module = getattr(module, "module", module) if _wrapped(module) else module
    return inner


def _wrapped(module: nn.Module) -> bool:
    return isinstance(module, nn.parallel.DistributedDataParallel)


def whole(tensor: Tensor) -> Tensor:
    """The tensor with all processes' parts; every process has to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, given: Tensor) -> Tensor:
    """`given`, whole on every process, in the parts and on the device of `tensor`."""
    moved = given.to(tensor.device, tensor.dtype)
    if not isinstance(tensor, DTensor):
        return moved
    return distribute_tensor(moved, tensor.device_mesh, tensor.placements)


def twin(module: nn.Module, group: Processes) -> nn.Module | None:
    """A copy to put the result into, where the module itself is about to be cut up."""
    return copy.deepcopy(module) if group.count > 1 and group.mode != "data" else None
