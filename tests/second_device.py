"""A second device, emulated on the CPU: tensors on it are as apart from the host's as those of a GPU are.

`SECOND` is a device of torch's spare back end. A tensor there holds one of the CPU; every operation is run on what it holds,
after a look at where its operands are: as with CUDA, all must be on one device, but for the host's numbers (tensors without
dimensions) and indices. Values leave it by `cpu()`, `tolist()`, `item()`, never by `numpy()`.

    with second_device():
        model = moved(model)

Autograd and all operations work; dropout is drawn by the host's generator. What is not emulated is how long anything takes,
rounding, kernels that a GPU lacks, and asynchrony.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from zkaudit.attacks.model import PublicModel

_setup_privateuseone_for_python_backend("second")
SECOND = torch.device("second:0")

aten = torch.ops.aten
MOVES = (aten.copy_.default, aten._to_copy.default)  # from one device to another
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
LISTED = (aten.cat.default, aten.stack.default)
READS = (aten._local_scalar_dense.default, aten.equal.default, aten.is_same_size.default)


class Apart(Tensor):
    """A tensor on the second device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Apart:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=SECOND,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self) -> str:  # type: ignore[override]
        return f"second device: {self.held!r}"

    def tolist(self) -> Any:
        return self.held.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            new = Apart(self.held.detach().clone())
            memo[id(self)] = nn.Parameter(new, self.requires_grad) if isinstance(self, nn.Parameter) else new
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Everywhere(TorchDispatchMode):
    """Operations that name the device, without a tensor that is on it, come here."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    apart = any(isinstance(x, Apart) for x in tensors)
    _check(func, args, tensors)
    named = kwargs.get("device")
    there = apart if named is None else torch.device(named).type == SECOND.type
    if func is aten.copy_.default:
        there = isinstance(args[0], Apart)
    inner = {**kwargs, "device": torch.device("cpu")} if named is not None and there else kwargs
    bare = tree_map(lambda x: x.held if isinstance(x, Apart) else x, (args, inner))
    result = func(*bare[0], **bare[1])
    if func in READS or not there:
        return result
    wrapped = tree_map(lambda x: Apart(x) if isinstance(x, Tensor) else x, result)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _check(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """RuntimeError unless the operands may meet: numbers of the host go anywhere, but not into lists, and so do its indices."""
    if func in MOVES:
        return
    operands = tensors
    if func in INDEXED:
        indices = [x for x in args[1] if x is not None]
        values = [x for x in args[2:3] if isinstance(x, Tensor)]
        operands = [args[0], *values, *(x for x in indices if isinstance(x, Apart) or not isinstance(args[0], Apart))]
    places = {isinstance(x, Apart) for x in operands if x.dim() > 0 or isinstance(x, Apart) or func in LISTED}
    if len(places) > 1:
        raise RuntimeError(f"{func}: operands are on different devices")


@contextlib.contextmanager
def second_device() -> Iterator[torch.device]:
    """Within the context tensors may be made on, and moved to, the device."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=SECOND) then is a move, which can be intercepted
    try:
        with _Everywhere(), sdpa_kernel(SDPBackend.MATH):
            yield SECOND
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def moved(model: PublicModel) -> PublicModel:
    """A copy of the model on the device; shared tensors stay shared."""
    module = copy.deepcopy(model.module)
    known: dict[int, Tensor] = {}
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, value in table.items():
                if value is not None:
                    if id(value) not in known:
                        new = Apart(value.detach().clone())
                        known[id(value)] = nn.Parameter(new, value.requires_grad) if isinstance(value, nn.Parameter) else new
                    table[name] = known[id(value)]  # type: ignore[assignment]
    return PublicModel(module, model.tokenizer, model.task)
