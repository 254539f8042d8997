"""A graphics card that is none: tensors that say they are on it, and complain as a card's would when they meet others.

Under `pretend_card()` a tensor made for, or moved to, "cuda" is an ordinary one in this machine's memory, whose storage is
remembered. It answers `device` with cuda, and so does whatever is computed from it. An operation on tensors of both kinds raises
`Meeting`, as PyTorch's own would raise, but for what PyTorch allows: numbers without dimensions beside a card's tensors, indices
into them, and copies. So a program's path to a card can be walked where there is none.

What it cannot see: kernels that a card lacks, how it rounds, how fast it is.
"""

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

CARD = torch.device("cuda", 0)
CROSS = {"copy_", "__getitem__", "index", "data", "set_", "result_type", "_has_compatible_shallow_copy_type", "allclose_"}
MOVES = {"to", "cpu", "cuda"}


class Meeting(RuntimeError):
    """Tensors of two devices in one operation."""


def tensors_in(values: object) -> Iterator[Tensor]:
    """All tensors among the arguments, however deep."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from tensors_in(value)
    elif isinstance(values, dict):
        for value in values.values():
            yield from tensors_in(value)


def is_card(place: object) -> bool:
    """Whether this names a card."""
    return isinstance(place, (str, torch.device)) and torch.device(place).type == "cuda"


class PretendCard(TorchFunctionMode):
    """Remembers whose storage is "on the card", and looks at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, object] = {}  # address of a storage: the storage, kept so that no other gets its place

    def holds(self, tensor: Tensor) -> bool:
        return tensor.device.type == "cpu" and tensor.untyped_storage().data_ptr() in self.kept

    def put(self, values: object) -> object:
        """Remember all tensors of a result."""
        for tensor in tensors_in(values):
            if tensor.device.type == "cpu" and tensor.numel():
                storage = tensor.untyped_storage()
                self.kept[storage.data_ptr()] = storage
        return values

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = (resolve_name(func) or getattr(func, "__name__", "")).removesuffix(".__get__").removesuffix(".__set__")
        name = name.rsplit(".", 1)[-1]
        if name == "device" and isinstance(args[0], Tensor):
            return CARD if self.holds(args[0]) else func(*args, **kwargs)
        if name == "is_cuda":
            return self.holds(args[0])
        if name == "__deepcopy__":
            return self.put(func(*args, **kwargs)) if self.holds(args[0]) else func(*args, **kwargs)
        if name in MOVES:
            return self.moved(name, func, args, kwargs)
        if name == "numpy" and self.holds(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        to_card = is_card(kwargs.get("device"))
        if "device" in kwargs and kwargs["device"] is not None:
            if to_card:
                if kwargs.get("generator") is not None:
                    raise Meeting(f"{name}: a generator of the CPU, numbers for the card")
                kwargs["device"] = torch.device("cpu")
            elif torch.device(kwargs["device"]).type == "cpu":
                return func(*args, **kwargs)
        given = list(tensors_in(args)) + list(tensors_in(kwargs))
        here = [tensor for tensor in given if tensor.device.type == "cpu" and tensor.numel() and not self.holds(tensor)]
        there = [tensor for tensor in given if self.holds(tensor)]
        if there and name not in CROSS and any(tensor.dim() for tensor in here):
            shapes = [tuple(tensor.shape) for tensor in given[:4]]
            raise Meeting(f"{name}: tensors of the card and of the CPU, of shapes {shapes}")
        if there and here and name not in CROSS and not any(tensor.dim() for tensor in there):
            raise Meeting(f"{name}: a number of the card beside tensors of the CPU") if any(t.dim() for t in here) else None
        if name in ("__getitem__", "index") and not self.holds(args[0]) and there:
            raise Meeting(f"{name}: indices on the card into a tensor of the CPU")
        result = func(*args, **kwargs)
        return self.put(result) if to_card or (there and not (name == "copy_" and not self.holds(args[0]))) else result

    def moved(self, name: str, func, args: tuple, kwargs: dict) -> Tensor:
        """`to`, `cpu` and `cuda`: a copy where the device changes."""
        tensor, rest = args[0], list(args[1:])
        places = [place for place in (*rest, *kwargs.values()) if isinstance(place, (str, torch.device))]
        others = [other for other in (*rest, *kwargs.values()) if isinstance(other, Tensor)]
        target = self.holds(tensor)
        if name != "to":
            target = name == "cuda"
        elif others:
            target = self.holds(others[0])
        elif places:
            target = is_card(places[0])
        if any(torch.device(place).type == "meta" for place in places) or tensor.is_meta:
            return func(*args, **kwargs)
        if name == "to":
            cpu = torch.device("cpu")
            swap = lambda value: cpu if isinstance(value, (str, torch.device)) else value  # noqa: E731
            result = func(tensor, *map(swap, rest), **{key: swap(value) for key, value in kwargs.items()})
        else:
            result = tensor
        if target != self.holds(tensor):
            result = result.detach().clone().requires_grad_(result.requires_grad) if not result.requires_grad else result.clone()
        return self.put(result) if target else result


@contextlib.contextmanager
def pretend_card() -> Iterator[PretendCard]:
    """Within it there seems to be a card, without native bf16."""
    with (
        mock.patch("torch.cuda.is_available", lambda: True),
        mock.patch("torch.cuda.is_bf16_supported", lambda including_emulation=True: False),
        mock.patch("torch.cuda.synchronize", lambda device=None: None),
        mock.patch("torch.cuda.get_device_name", lambda device=None: "a pretended card"),
        mock.patch("torch.cuda.get_device_properties", lambda device=None: mock.Mock(total_memory=8 * 10**9)),
        mock.patch("torch.cuda.reset_peak_memory_stats", lambda device=None: None),
        mock.patch("torch.cuda.max_memory_allocated", lambda device=None: 10**9),
        PretendCard() as mode,
    ):
        yield mode
