"""A run's folder: one process at a time writes to it; what the run depends on; what it has done so far."""

import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from minildm import config as configs
from minildm.engine.errors import UserError
from minildm.engine.presets import Settings
from minildm.files import read_json, read_text, refuse_links_out, sweep, sync, write_text
from minildm.ldm import LAYOUT, model_config

LOCK = ".minildm.lock"


@contextlib.contextmanager
def held(folder: Path, resume: bool) -> Iterator[None]:
    """Keep every other process from writing to a run's folder, and remove what a killed one left half-written there.

    The folder is made if need be, and removed again if nothing was put into it. The operating system ends the hold with the
    process, however that ends. Nothing is touched in a folder that is not, or not to be, this run's.

    Raises:
        UserError: another process holds it; it holds something else, or no run to resume.
        ValueError: a link in it leads out of it.
    """
    check_holds(folder, resume)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{folder} is in use by another process: wait for its end, or name another folder with --out") from None
    try:
        check_holds(folder, resume)  # again: another process may have begun and ended since
        refuse_links_out(folder)
        for place in (folder, folder / "samples"):
            sweep(place)
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # while it is held: whoever waits for it notices
        lock.release()
        if made and not any(folder.iterdir()):
            folder.rmdir()


def check_holds(folder: Path, resume: bool) -> None:
    """Raise UserError unless the folder holds a run, to resume, or nothing, to begin one."""
    begun = (folder / "config.json").exists()
    if resume and not begun:
        where = "" if empty(folder) else ", in another folder: this one is not empty"
        raise UserError(f"{folder} holds no run to resume, no config.json: start one without --resume{where}")
    if resume or not folder.exists():
        return
    if begun:
        raise UserError(f"{folder} holds another run: go on with it with --resume, or name another folder with --out")
    if not empty(folder):
        raise UserError(f"{folder} is not empty, and holds no run: name another folder with --out")


def empty(folder: Path) -> bool:
    """Whether a folder holds nothing, or what a process leaves that was killed before its run began."""
    leftover = re.compile(r"\.config\.json\.\d+\.partial")
    return not folder.exists() or all(path.name == LOCK or leftover.fullmatch(path.name) for path in folder.iterdir())


@dataclasses.dataclass(frozen=True)
class Origin:
    """What the weights depend on besides the settings, as it was when the run began."""

    pictures: int
    """In the training data."""
    fingerprint: str
    """Of all data."""
    threads: int
    torch: str
    planned: bool
    """Whether `minutes`, if there are any, have been turned into steps."""
    final: bool = True
    """Whether the denoiser's steps, too, are as they will be: from minutes they are planned again when it begins
    (which an older minildm did not do)."""
    bf16: bool | None = None
    """Whether the machine computed in it natively, Muon too; None: not noted, by an older minildm."""
    device: str | None = None
    """"cpu", or the card's name; None: not noted, by an older minildm."""


def write_config(folder: Path, settings: Settings, origin: Origin) -> None:
    """config.json: the layout, the settings, and apart from them the model, so that `LatentDiffusion.load` reads it."""
    values = configs.to_dict(settings)
    document = {"layout": LAYOUT, "model": values.pop("model"), "settings": values, "origin": dataclasses.asdict(origin)}
    write_text(folder / "config.json", json.dumps(document, indent=1))


def read_config(folder: Path) -> tuple[Settings, Origin]:
    """The settings and the origin of a run.

    Raises:
        ValueError: no or broken config.json, one of another layout, or a model that was saved without its run.
    """
    path = folder / "config.json"
    document = read_json(path)
    model = model_config(document, folder)
    if not isinstance(document.get("settings"), dict):
        raise ValueError(f"{path} has no settings: it belongs to a model that was saved alone, not to a training run")
    if "origin" not in document:
        raise ValueError(f"{path} does not say what the run began with, as an older minildm did not: train again")
    try:
        settings = configs.from_dict(Settings, document["settings"] | {"model": configs.to_dict(model)})
        return settings, configs.from_dict(Origin, document.get("origin"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


class Metrics:
    """metrics.jsonl, one line for every few steps; resumed at the line where a checkpoint stood.

    Args:
        path: of the file.
        lines: how many to keep of those that are there; a killed run may have written more.

    Raises:
        UserError: there are fewer.
    """

    def __init__(self, path: Path, lines: int) -> None:
        self.path, self.lines = path, lines
        kept = read_text(path).splitlines(keepends=True)[:lines] if path.exists() else []
        if len(kept) < lines:
            raise UserError(f"{path} has {len(kept)} lines, the checkpoint was written after {lines}: restore it")
        for number, line in enumerate(kept, 1):
            if not is_metric(line):
                raise UserError(f"{path}: line {number} is no line of metrics: restore it")
        write_text(path, "".join(kept))

    def append(self, line: dict[str, Any]) -> None:
        """Add a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.lines += 1

    def sync(self) -> None:
        """Have all lines on disk, before a checkpoint that counts on them."""
        sync(self.path)


def is_metric(line: str) -> bool:
    """Whether this is a line as `Run` writes them."""
    try:
        values = json.loads(line)
        stage, step, loss = values["stage"], values["step"], values["loss"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
    return isinstance(stage, str) and type(step) is int and type(loss) is float and math.isfinite(loss)
