"""Files that are written whole or not at all, and read as data, never as code."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

PARTIAL = ".partial"  # ends the name under which a file is being written
LARGEST_TEXT = 64 * 2**20  # bytes; a larger text file is refused before it is read


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to instead; at the end of the block that file is synced to disk and takes the place of `path`.

    After a crash, the power's included, `path` holds the old content or the new one, nothing between. An error inside
    the block leaves the old one, and no trace of the new one.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")  # a folder, since libraries write files beside theirs
    remove(aside)
    aside.mkdir()
    try:
        yield aside / path.name
        sync(aside / path.name)
        (aside / path.name).replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace a file's content by this text, encoded as UTF-8, in one step."""
    with written_whole(path) as aside:
        aside.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Have the operating system write a file or folder to disk now. Folders cannot be synced on Windows."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def own_file(path: Path) -> Path:
    """The path itself, if it is an ordinary file that lies in its folder.

    Raises:
        ValueError: nothing there; a folder, a pipe or a device; a link that leads out of the folder.
    """
    end = end_of(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist: is {path.parent} a run folder?")
    if not path.is_file():
        raise ValueError(f"{path} is no ordinary file: put the run's own back")
    if not end.is_relative_to(end_of(path.parent)):
        raise ValueError(f"{path} is a link to {end}, outside its folder: put a copy in its place")
    return path


def end_of(path: Path) -> Path:
    """Where a path leads when all links are followed. Raises ValueError when they lead in a circle."""
    try:
        return path.resolve()
    except (RuntimeError, OSError):  # the one in Python 3.11 and 3.12, the other later
        raise ValueError(f"{path} is a link that leads in a circle: remove it") from None


def read_text(path: Path) -> str:
    """A UTF-8 text file's content. Raises ValueError when it is missing, no text, or absurdly large."""
    size = own_file(path).stat().st_size
    if size > LARGEST_TEXT:
        raise ValueError(f"{path} has {size} bytes, more than the {LARGEST_TEXT} of any honest one: restore it")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}): restore it") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ValueError when it is missing or broken."""
    text = read_text(path)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of a thousand digits, a thousand brackets
        raise ValueError(f"{path} is no readable JSON ({error}): restore it") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path} should hold a JSON object, not {type(document).__name__}: restore it")
    return document


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ValueError when it is missing, broken, or of another format."""
    try:
        return load_file(own_file(path))
    except ValueError:
        raise
    except Exception as error:  # safetensors raises its own type for each kind of damage
        raise ValueError(f"{path} is no whole safetensors file ({error}): restore it; other formats are refused") from None


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file. Raises OSError, as any other write does, for want of space or of permission."""
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
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


def fill(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Give the module these weights, which came from `path`; a module without memory of its own (on `meta`) gets theirs.

    Raises:
        ValueError: a weight that is missing, unknown, or of another shape; nothing is changed then.
    """
    wanted = module.state_dict()
    for name in sorted(wanted.keys() ^ weights.keys()):
        raise ValueError(f"{path} does not fit: it {'lacks' if name in wanted else 'has an unknown'} weight {name!r}")
    for name, value in weights.items():
        if value.shape != wanted[name].shape:
            raise ValueError(f"{path} does not fit: {name} has shape {tuple(value.shape)}, wanted is {tuple(wanted[name].shape)}")
    copies = {name: copy_like(wanted[name], value) for name, value in weights.items()}  # the file may go
    module.load_state_dict(copies, assign=any(value.is_meta for value in wanted.values()))


def copy_like(wanted: Tensor, value: Tensor) -> Tensor:
    """The value in memory of its own, in the type and the layout of the wanted tensor."""
    return torch.empty_strided(wanted.shape, wanted.stride(), dtype=wanted.dtype, device=value.device).copy_(value)


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written in a folder, by the names that `written_whole` and checkpoints give it.

    Whoever sweeps must hold the run. (A picture that `sample` is writing there at this very moment would be lost, with an
    error; nothing that is finished ever is.)
    """
    for leftover in folder.glob(f".*{PARTIAL}"):
        if re.fullmatch(rf"\.(step-\d+|.+\.\d+){re.escape(PARTIAL)}", leftover.name):
            remove(leftover)


def remove(path: Path) -> None:
    """Remove a file, a link (not what it leads to), or a folder with all it holds; nothing if there is nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def refuse_links_out(folder: Path) -> None:
    """Raise ValueError if a link in the folder or below leads out of it: writing there would change what is elsewhere."""
    home = end_of(folder)
    for path in folder.rglob("*"):
        if path.is_symlink() and not end_of(path).is_relative_to(home):
            raise ValueError(f"{path} is a link to {end_of(path)}, outside the folder: put a copy in its place")
