"""Files that are written whole or not at all, and read as data, never as code."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PARTIAL = ".partial"  # ends the name under which a file is being written
LARGEST_TEXT = 64 * 2**20  # bytes; a larger text file is refused before it is read


@contextlib.contextmanager
def folder_made_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into instead; at the end of the block it takes its name, so that it is there whole or not at all.

    Raises:
        ValueError: something of that name is there already.
    """
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder} exists: name a folder that does not")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}{PARTIAL}")
    remove(aside)
    aside.mkdir(parents=True)
    try:
        yield aside
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    sync(folder.parent)


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


def linked(path: Path) -> Path:
    """Where a path leads, for files that are only read and may lie elsewhere, as in the hub's cache.

    Raises:
        ValueError: nothing there.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist: is {path.parent} complete?")
    return end_of(path)


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
