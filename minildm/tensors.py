"""Weights in safetensors files, which hold numbers and no code; and modules that get theirs from there."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minildm.files import own_file


class Tensors(Mapping[str, Tensor]):
    """The tensors of safetensors files, by name: each is read when it is asked for, into memory of its own.

    Args:
        paths: files that do not change meanwhile; with several, a name stands in one of them.

    Raises:
        ValueError: a file that is missing, broken, or of another format.
    """

    def __init__(self, *paths: Path) -> None:
        self._file_of = {}
        for path in paths:
            with _readable(path):
                file = safe_open(own_file(path), "pt", backend="pread")
                self._file_of |= dict.fromkeys(file.keys(), (file, path))

    def __getitem__(self, name: str) -> Tensor:
        file, path = self._file_of[name]
        with _readable(path):
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, from the head of its file."""
        return tuple(self._file_of[name][0].get_slice(name).get_shape())

    def kind(self, name: str) -> str:
        """The type of a tensor's numbers as the file calls it, such as F32, F16 or BF16."""
        return self._file_of[name][0].get_slice(name).get_dtype()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what safetensors raises, a type of its own for each kind of damage, into one ValueError."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}): restore it; other formats are refused") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, in memory. Raises ValueError when it is missing, broken, or of another format."""
    return dict(Tensors(path))


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file. Raises OSError, as any other write does, for want of space or of permission."""
    try:
        whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        save_file(whole, path, {"format": "pt"})  # a word without which transformers 4 does not open it
    except Exception as error:  # safetensors wraps the system's error in a type of its own, and only words are left
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors makes it the owner's alone


class Unfilled(TorchFunctionMode):
    """Inside, no tensor on `meta` is filled from a normal distribution: it has no values, and PyTorch would load its whole
    compiler for it, which takes longer than all the rest of opening a model."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        given = (*args, *(kwargs or {}).values())
        if function is nn.init.normal_ and given[0].is_meta:
            return given[0]
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Modules built in this block have shapes, and neither memory nor values; `fill` gives them both."""
    with torch.device("meta"), Unfilled():
        yield


def fill(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Give the module these weights, which came from `path`; a module without memory of its own (on `meta`) gets some.

    `Tensors` are read one by one, so that no more is in memory than the module and one of them.

    Raises:
        ValueError: a weight that is missing, unknown, or of another shape; nothing is changed then.
    """
    wanted = module.state_dict()
    for name in sorted(wanted.keys() ^ weights.keys()):
        raise ValueError(f"{path} does not fit: it {'lacks' if name in wanted else 'has an unknown'} weight {name!r}")
    shape_of = weights.shape if isinstance(weights, Tensors) else lambda name: tuple(weights[name].shape)
    for name in weights:
        if shape_of(name) != wanted[name].shape:
            raise ValueError(f"{path} does not fit: {name} has shape {shape_of(name)}, wanted is {tuple(wanted[name].shape)}")
    copies = {name: copy_like(wanted[name], value) for name, value in weights.items()}
    module.load_state_dict(copies, assign=any(value.is_meta for value in wanted.values()))


def copy_like(wanted: Tensor, value: Tensor) -> Tensor:
    """The value in memory of its own, in the type and the layout of the wanted tensor."""
    return torch.empty_strided(wanted.shape, wanted.stride(), dtype=wanted.dtype, device=value.device).copy_(value)
