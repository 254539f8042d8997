"""Checkpoints that are either whole or not there: written aside, synced to disk, renamed, then pointed to."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from minildm.engine.errors import UserError
from minildm.files import PARTIAL, end_of, read_json, read_text, sync, write_text
from minildm.tensors import read_tensors, save_tensors

POINTER = "latest"
NAME = re.compile(r"step-\d+")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where training stands: which stage, after how many of its steps, and every tensor that goes on from there."""

    stage: str
    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]  # small numbers: seconds spent, lines of metrics, losses not yet logged


def save(run: Path, checkpoint: Checkpoint, name: str) -> None:
    """Write `run/name/`, point `latest` to it, then remove the checkpoint before it.

    A checkpoint is a function of its step, so one that is already pointed to is left as it is.

    Raises:
        OSError: no space, no permission. The checkpoint before it stays, and stays pointed to.
    """
    aside, folder = run / f".{name}{PARTIAL}", run / name
    if folder.exists() and pointed_to(run) == folder:
        return
    for leftover in (aside, folder):
        if leftover.exists():
            shutil.rmtree(leftover)
    try:
        aside.mkdir()
        save_tensors(checkpoint.tensors, aside / "state.safetensors")
        document = {"stage": checkpoint.stage, "step": checkpoint.step, "facts": checkpoint.facts}
        (aside / "state.json").write_text(json.dumps(document))
        for path in (aside / "state.safetensors", aside / "state.json", aside):
            sync(path)
        aside.replace(folder)
        sync(run)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)  # a full disk can use the room
        raise
    write_text(run / POINTER, name)
    remove_others(run)


def remove_others(run: Path) -> None:
    """Remove every checkpoint but the one that `latest` names; folders with other names are none."""
    kept = pointed_to(run)
    for other in checkpoints(run):
        if kept is not None and other != kept:
            shutil.rmtree(other)


def checkpoints(run: Path) -> list[Path]:
    """The folders that this module wrote."""
    return [path for path in run.glob("step-*") if NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()]


def pointed_to(run: Path) -> Path | None:
    """The folder that `latest` names; None when there is no `latest`. Raises UserError when it names none in this run."""
    if not (run / POINTER).exists():
        return None
    name = read_text(run / POINTER).strip()[:100]
    folder = run / name
    if not NAME.fullmatch(name):
        raise UserError(
            f"{run / POINTER} holds {name!r}, which is no checkpoint's name: restore it or start afresh with another --out"
        )
    if end_of(folder).parent != end_of(run):
        raise UserError(f"{folder} is a link to {end_of(folder)}, outside the run: restore it or start afresh with another --out")
    return folder


def load(run: Path) -> Checkpoint | None:
    """The checkpoint that `latest` points to; None when there is none yet.

    The first one of a run may stand there whole while `latest` was not written any more: it is taken, and pointed to.

    Raises:
        UserError, ValueError: a pointer to nothing, or a broken checkpoint.
    """
    if not (run / POINTER).exists() and (found := checkpoints(run)):
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise UserError(f"{run / POINTER} is missing, and there are {names}: write into it which one to go on from")
        write_text(run / POINTER, found[0].name)
    folder = pointed_to(run)
    if folder is None:
        return None
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist, but {run / POINTER} names it: restore it or start afresh with another --out")
    document = read_json(folder / "state.json")
    stage, step, facts = (document.get(key) for key in ("stage", "step", "facts"))
    lines, seconds, losses = (facts.get(key) if isinstance(facts, dict) else None for key in ("lines", "seconds", "losses"))
    whole = type(step) is int and step > 0 and type(lines) is int and lines >= 0
    whole = whole and isinstance(seconds, dict) and isinstance(losses, list) and numbers([*seconds.values(), *losses])
    if not (whole and stage in ("autoencoder", "denoiser")):
        raise UserError(f"{folder / 'state.json'} lacks a part of its state: restore it or start afresh with another --out")
    checkpoint = Checkpoint(stage, step, read_tensors(folder / "state.safetensors"), facts)
    remove_others(run)  # not before this one is known to be good
    return checkpoint


def numbers(values: list[Any]) -> bool:
    """Whether these are only finite numbers of a reasonable size."""
    return all(type(value) in (int, float) and abs(value) < 1e30 for value in values)
