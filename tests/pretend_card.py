"""A graphics card that is none: tensors that say they are on it, and complain as a card's would when they meet others.

Under `pretend_card()` a tensor made for, or moved to, "cuda" is an ordinary one in this machine's memory, whose storage is
remembered. It answers `device` with cuda, and so does whatever is computed from it. An operation on tensors of both kinds raises
`Meeting`, where PyTorch would raise, and what PyTorch allows is allowed: numbers without dimensions beside a card's tensors in
pointwise operations, indices into them, and copies. So a program's path to a card can be walked where there is none.

What it cannot see: what happens inside `backward`, kernels that a card lacks, how it rounds, how fast it is.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

CARD, CPU = torch.device("cuda", 0), torch.device("cpu")
COPIES = {"copy_", "fill_", "data", "set_", "_has_compatible_shallow_copy_type", "result_type"}  # may cross
SHAPES = {"expand_as", "view_as", "reshape_as"}  # read no more of the other than its shape
FACTORIES = set("tensor full arange linspace scalar_tensor zeros ones empty rand randn randint as_tensor asarray".split())
STRICT = set(  # take not even a number from elsewhere
    "stack cat embedding index_select gather take searchsorted bucketize clamp equal cross_entropy nll_loss masked_fill "
    "_fused_adam_ _fused_adamw_ _fused_sgd_".split()
)
IN_PLACE = re.compile(r"(?!__)\w*[a-z0-9]_|__i(add|sub|mul|truediv|floordiv|mod|pow|and|or|xor)__")


class Meeting(RuntimeError):
    """Tensors of two devices in one operation."""


def tensors_in(values: object) -> Iterator[Tensor]:
    """All tensors among the arguments, however deep."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list, dict)):
        for value in values.values() if isinstance(values, dict) else values:
            yield from tensors_in(value)


def is_card(place: object) -> bool:
    """Whether this names a card."""
    return isinstance(place, (str, torch.device)) and torch.device(place).type == "cuda"


class PretendCard(TorchFunctionMode):
    """Remembers whose storage is "on the card", and looks at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, object] = {}  # where a storage is: the storage, kept so that no other gets its place

    def holds(self, tensor: Tensor) -> bool:
        """Whether it is "on the card"."""
        return tensor.device.type == "cpu" and tensor.untyped_storage()._cdata in self.kept

    def put(self, values: object) -> object:
        """Remember all tensors of a result."""
        for tensor in tensors_in(values):
            if tensor.device.type == "cpu":
                storage = tensor.untyped_storage()
                self.kept[storage._cdata] = storage
        return values

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        kwargs = dict(kwargs or {})
        name = (resolve_name(func) or getattr(func, "__name__", "")).removesuffix(".__get__").removesuffix(".__set__")
        name = name.rsplit(".", 1)[-1]
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if first is not None:
            if name in ("device", "is_cuda", "is_cpu", "get_device") and self.holds(first):
                return {"device": CARD, "is_cuda": True, "is_cpu": False, "get_device": 0}[name]
            if name in ("numpy", "__array__") and not kwargs.get("force") and self.holds(first):
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
            takes_it_over = name in ("as_tensor", "asarray") and kwargs.get("device") is not None
            if takes_it_over or name in ("to", "cpu", "cuda", "type_as"):
                return self.moved(name, first, args[1:], kwargs)
            if name in SHAPES or name == "__deepcopy__":
                return self.put(func(*args, **kwargs)) if self.holds(first) else func(*args, **kwargs)
        to_card = is_card(kwargs.get("device"))
        if to_card:
            kwargs["device"] = CPU
        given = [*tensors_in(args), *tensors_in(kwargs)]
        there = [tensor for tensor in given if self.holds(tensor)]
        here = [tensor for tensor in given if tensor.device.type == "cpu" and not self.holds(tensor)]
        if (there or to_card) and any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values())):
            raise Meeting(f"{name}: a generator of the CPU, numbers for the card")
        self.check(name, first, args, kwargs, here, there)
        result = func(*args, **kwargs)
        if to_card:
            return self.put(result.clone() if name in ("as_tensor", "asarray") else result)  # numpy's memory stays the CPU's
        stays = name in FACTORIES and not (name == "tensor" and first is not None)
        stays |= name in ("copy_", "fill_", "__getitem__", "index") and first is not None and not self.holds(first)
        return self.put(result) if there and kwargs.get("device") is None and not stays else result

    def check(self, name: str, first: Tensor | None, args: tuple, kwargs: dict, here: list[Tensor], there: list[Tensor]) -> None:
        """Raise Meeting where a card's own check would."""
        if not there or not here or name in COPIES:
            return
        if name in ("__getitem__", "index", "__setitem__", "index_put_"):
            indices, value = list(tensors_in(args[1])), args[2] if len(args) > 2 else None
            if not self.holds(first) and any(each.dim() and self.holds(each) for each in indices):
                raise Meeting(f"{name}: indices on the card into a tensor of the CPU")
            many = any(each.dim() for each in indices) and isinstance(value, Tensor) and value.dim() > 0
            if many and self.holds(value) != self.holds(first):
                raise Meeting(f"{name}: values of another device where tensors are indices")
            return
        if any(tensor.dim() for tensor in here) or name in STRICT:
            raise Meeting(f"{name}: tensors of the card and of the CPU, {[tuple(each.shape) for each in (*there, *here)][:4]}")
        written = [*tensors_in(kwargs.get("out")), *([first] if first is not None and IN_PLACE.fullmatch(name) else [])]
        if any(not self.holds(tensor) for tensor in written):
            raise Meeting(f"{name}: a result of the card into a tensor of the CPU")

    def moved(self, name: str, tensor: Tensor, rest: tuple, kwargs: dict) -> Tensor:
        """`to` and its kin: a copy where the device changes."""
        said = [*rest, *kwargs.values()]
        places = [torch.device(value) for value in said if isinstance(value, (str, torch.device))]
        others = [value for value in said if isinstance(value, Tensor)]
        target = self.holds(tensor)
        if name in ("cpu", "cuda"):
            target = name == "cuda"
        elif others:
            target = self.holds(others[0])
        elif places:
            target = places[0].type == "cuda"
        here = [CPU if is_card(value) else value for value in rest]
        kwargs = {key: CPU if is_card(value) else value for key, value in kwargs.items()}
        if name in ("cpu", "cuda"):
            result = tensor
        else:
            result = (tensor.to if name in ("to", "type_as") else lambda **more: torch.as_tensor(tensor, **more))(*here, **kwargs)
        if result.device.type == "cpu" and target != self.holds(tensor) and self.holds(result) != target:
            result = result.clone()
        return self.put(result) if target else result


@contextlib.contextmanager
def pretend_card() -> Iterator[PretendCard]:
    """Within it there seems to be a card, without native bf16; what autocast casts there is the CPU's list."""
    autocast = torch.autocast
    with (
        mock.patch("torch.cuda.is_available", lambda: True),
        mock.patch("torch.cuda.is_bf16_supported", lambda including_emulation=True: including_emulation),
        mock.patch("torch.cuda.synchronize", lambda device=None: None),
        mock.patch("torch.cuda.empty_cache", lambda: None),
        mock.patch("torch.cuda.get_device_name", lambda device=None: "a pretended card"),
        mock.patch("torch.cuda.get_device_properties", lambda device=None: mock.Mock(total_memory=8 * 10**9)),
        mock.patch("torch.cuda.reset_peak_memory_stats", lambda device=None: None),
        mock.patch("torch.cuda.max_memory_allocated", lambda device=None: 10**9),
        mock.patch("torch.autocast", lambda place, *rest, **more: autocast("cpu" if place == "cuda" else place, *rest, **more)),
        PretendCard() as mode,
    ):
        yield mode
