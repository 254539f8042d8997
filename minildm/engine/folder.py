"""A run's folder: one process at a time writes to it; what the run depends on; what it has done so far."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from minildm import config as configs
from minildm.engine.errors import UserError
from minildm.engine.presets import Settings
from minildm.files import read_json, read_text, refuse_links_out, sweep, sync, write_text
from minildm.ldm import LAYOUT, model_config

LOCK = ".lock"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the folder if need be, keep every other process from writing to it, and remove what a killed one left half-written.

    The operating system ends the hold with the process, however that ends. A folder that was made and stayed empty is removed.

    Raises:
        UserError: another process holds it.
        ValueError: a link in it leads out of it.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{folder} is in use by another process: wait for its end, or name another folder with --out") from None
    try:
        refuse_links_out(folder)
        sweep(folder)
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # while it is held: whoever waits for it notices
        lock.release()
        if made and not any(folder.iterdir()):
            folder.rmdir()


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
        write_text(path, "".join(kept))

    def append(self, line: dict[str, Any]) -> None:
        """Add a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.lines += 1

    def sync(self) -> None:
        """Have all lines on disk, before a checkpoint that counts on them."""
        sync(self.path)
