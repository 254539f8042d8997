"""Checkpoints that are either whole or not there: written aside, synced to disk, renamed, then pointed to."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from minildm.engine.errors import UserError

POINTER = "latest"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where training stands: which stage, after how many of its steps, and every tensor that goes on from there."""

    stage: str
    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]  # small numbers: seconds spent, lines of metrics, updates of the average


def write_text(path: Path, text: str) -> None:
    """Replace a file's content in one step: after a crash it holds the old text or the new one, nothing between."""
    aside = path.with_name(f".{path.name}.partial")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync(path.parent)


def save(run: Path, checkpoint: Checkpoint, name: str) -> None:
    """Write `run/name/`, point `latest` to it, then remove the checkpoint before it."""
    aside, folder = run / f".{name}.partial", run / name
    for leftover in (aside, folder):
        if leftover.exists():
            shutil.rmtree(leftover)
    aside.mkdir()
    save_file({key: tensor.detach().contiguous() for key, tensor in checkpoint.tensors.items()}, aside / "state.safetensors")
    document = {"stage": checkpoint.stage, "step": checkpoint.step, "facts": checkpoint.facts}
    (aside / "state.json").write_text(json.dumps(document))
    for path in (aside / "state.safetensors", aside / "state.json", aside):
        sync(path)
    aside.replace(folder)
    sync(run)
    write_text(run / POINTER, name)
    for other in run.glob("step-*"):
        if other.name != name:
            shutil.rmtree(other)


def load(run: Path) -> Checkpoint | None:
    """The checkpoint that `latest` points to; None when there is none yet.

    Raises:
        UserError: a pointer to nothing, or a broken checkpoint.
    """
    pointer = run / POINTER
    if not pointer.exists():
        return None
    name = pointer.read_bytes().decode("utf-8", "replace").strip()
    if Path(name).name != name or not name.startswith("step-"):
        raise UserError(f"{pointer} holds {name!r}, which is no checkpoint's name: restore it or start afresh with another --out")
    try:
        document = json.loads((run / name / "state.json").read_text())
        tensors = load_file(run / name / "state.safetensors")
        return Checkpoint(document["stage"], document["step"], tensors, document["facts"])
    except Exception as error:  # OSError, JSON's, safetensors' own: each means that the checkpoint is damaged
        raise UserError(f"{run / name} cannot be read ({error}): restore it or start afresh with another --out") from error


def sweep(run: Path) -> None:
    """Remove what a killed process left half-written."""
    for leftover in run.glob(".*.partial"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def sync(path: Path) -> None:
    """Have the operating system write a file or folder to disk now. Folders cannot be synced on Windows."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
