"""A device without hardware: torch's `meta` device under watch, without data or with them.

`Watch` looks at every operation that torch carries out. A tensor of the device that meets one of the host is a fault;
so is a result that the device must send to the host, unless it is sent from where that is declared. On the plain
`meta` device there is nothing to send: an operation that needs data fails by itself. With `WithData` a tensor of the
device keeps its values behind the host's back, so that what needs them (a greedy selection) runs, and is the same.
`Watch.record` is to that device what a CUDA graph is to a GPU: operations, on the same tensors, done again.
"""

import contextlib
import sys
from collections import Counter
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

META = torch.device("meta")
HOST = torch.device("cpu")
PROJECT = Path(__file__).resolve().parents[1]
SENT = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"}
"""Operations whose result, or its size, the host needs before it can go on."""
ON_THE_WAY = {"_to_copy", "copy_", "detach", "lift_fresh", "alias", "empty", "empty_strided", "view", "reshape"}
"""What may be done with a tensor on the host that is to go to the device."""


class LeftOnTheHostError(AssertionError):
    """An operation on the device was given a tensor of the host, or one was made on the host for it."""


class HiddenTransferError(AssertionError):
    """The host waited for a result where that is not declared."""


class DeviceTensor(torch.Tensor):
    """A tensor that says it is on `meta`, and has its values all the same."""

    @staticmethod
    def __new__(cls, values):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=META,
        )
        made.values = values
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} outside of a Watch")


class _Lists(TorchFunctionMode):
    """Lists made tensors, tensors made lists, lists as indices: no operations that a `TorchDispatchMode` sees."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.tensor and torch.device(kwargs.get("device") or "cpu") == META:
            return DeviceTensor(torch.tensor(*args, **kwargs | {"device": HOST}))
        if function is torch.Tensor.new_tensor and isinstance(args[0], DeviceTensor):
            return DeviceTensor(args[0].values.new_tensor(*args[1:], **kwargs))
        if function is torch.Tensor.tolist and isinstance(args[0], DeviceTensor):
            return args[0].cpu().tolist()
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], DeviceTensor):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(
                DeviceTensor(torch.tensor(one, dtype=torch.int64)) if isinstance(one, list) else one for one in index
            )
            return function(args[0], index, *args[2:])
        return function(*args, **kwargs)


class Watch(TorchDispatchMode):
    """`declared` are the functions ("module.function") from which results may be sent; `sent` counts how often."""

    def __init__(self, *, with_data: bool = False, declared: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.with_data, self.declared = with_data, declared
        self.sent: Counter[str] = Counter()
        self.seen: set[str] = set()
        self.tape: list[tuple] | None = None
        self.replays = 0

    def record(self, work):
        """What `work` returns, and how to have its operations done again: nothing of the host is looked at then."""
        self.tape, before = [], self.tape
        result, tape = work(), self.tape
        self.tape = before

        def replay():
            self.replays += 1
            with _disable_current_modes(), torch.no_grad():
                for function, args, kwargs, found in tape:
                    again = function(*args, **kwargs)
                    if not function.is_view and not function._schema.is_mutable:
                        tree_map(
                            lambda old, new: old.copy_(new) if isinstance(old, torch.Tensor) else old, found, again
                        )
            return result

        return result, replay

    def __enter__(self):
        self.lists = contextlib.ExitStack()
        if self.with_data:
            self.lists.enter_context(_Lists())
        return super().__enter__()

    def __exit__(self, *error):
        self.lists.close()
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::")
        self.seen.add(name)
        given = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
        here = [one for one in given if one.device == META]
        target = kwargs.get("device")
        unsized = name == "repeat_interleave" and kwargs.get("output_size") is None
        fetched = name == "_to_copy" and target not in (None, META)
        if here and (name in SENT or unsized or fetched):
            self._send(name)
        elif here and len(here) < len(given) and name not in ("_to_copy", "copy_"):
            raise LeftOnTheHostError(f"{name} was given a tensor of the host in {_caller()}")
        elif not here and name not in ON_THE_WAY and target != META:
            raise LeftOnTheHostError(f"{name} was done on the host in {_caller()}")
        if not self.with_data:
            return function(*args, **kwargs)
        return self._with_data(function, name, args, kwargs, target)

    def _send(self, name: str) -> None:
        caller = _caller()
        self.sent[caller] += 1
        if caller not in self.declared:
            raise HiddenTransferError(f"{name} sends to the host in {caller}")

    def _with_data(self, function, name, args, kwargs, target):
        wrappers = {}

        def unwrap(one):
            if isinstance(one, DeviceTensor):
                wrappers[id(one.values)] = one
                return one.values
            return HOST if isinstance(one, torch.device) else one

        on_device = self._on_device(args, kwargs)
        to_device = target == META or (target is None and on_device)
        if self.tape is not None and name in ("_to_copy", "copy_", "lift_fresh") and not on_device:
            raise LeftOnTheHostError(f"{name} is recorded with what the host holds in {_caller()}")
        args, kwargs = tree_map(unwrap, args), tree_map(unwrap, kwargs)
        result = function(*args, **kwargs)
        if self.tape is not None:
            self.tape.append((function, args, kwargs, result))

        def wrap(one):
            if not isinstance(one, torch.Tensor):
                return one
            return wrappers[id(one)] if id(one) in wrappers else DeviceTensor(one)

        return tree_map(wrap, result) if to_device else result

    @staticmethod
    def _on_device(args, kwargs) -> bool:
        return any(isinstance(one, DeviceTensor) for one in tree_flatten((args, kwargs))[0])


def _caller() -> str:
    """The innermost named function of the project on the stack: "module.function"."""
    frame = sys._getframe(1)
    while frame:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PROJECT / "bench") and not frame.f_code.co_name.startswith("<"):
            return f"{path.stem}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "outside the project"
