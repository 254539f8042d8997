"""Where data come from: a folder, or a data set on the hub, opened with the `datasets` library, row by row."""

import io
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

from minildm.engine.errors import UserError
from minildm.files import end_of

# Before `datasets` is imported, anywhere: no progress bars, no statistics sent.
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
BATCH = 1000  # rows read at a time
KINDS = {"imagefolder", "parquet", "arrow", "json", "csv", "text", "cache"}  # of reading that holds no code, in `datasets`


def located(name: str) -> str:
    """The name to store in a run: a folder by its absolute path, so that the run can be judged from anywhere."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if name != "shapes" and folder.exists() else name


def open_dataset(name: str, stream: bool = False) -> Any:
    """The splits of a data set, by hub name or folder, pictures not yet decoded.

    Args:
        stream: read rows as they come instead of downloading and indexing all of them first.

    Raises:
        UserError: nothing there, nothing in it, or no network and no copy on this machine.
    """
    import datasets

    datasets.logging.set_verbosity(logging.CRITICAL)  # what it would say first is in the error below
    folder = Path(name).expanduser()
    if folder.exists():
        if folder.is_file() or not any(path.is_file() for path in folder.rglob("*")):
            what = "a file" if folder.is_file() else "an empty folder"
            raise UserError(f"data {name!r} is {what}: name a folder of pictures or parquet files")
    elif name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(
            f"data {name!r} does not exist: name a folder with --data DIR, or a data set on the hub such as ylecun/mnist"
        )
    elif not hub_answers():
        datasets.config.HF_HUB_OFFLINE = True
    try:
        builder = datasets.load_dataset_builder(str(folder) if folder.exists() else name)
        check_files(builder, name)
        if not stream:
            builder.download_and_prepare()
        splits = builder.as_streaming_dataset() if stream else builder.as_dataset()
    except UserError:
        raise
    except Exception as error:  # datasets raises many types; each means that these data cannot be had
        if folder.exists():
            raise UserError(
                f"data {name!r} cannot be read ({reason(error)}): it should hold pictures or parquet files"
            ) from error
        raise UserError(
            f"data {name!r} are not on this machine and the hub gave none: get a copy and name it with --data DIR"
        ) from error
    if "train" not in splits:
        splits = {"train": splits[next(iter(splits))]}
    return splits


def check_files(builder: Any, name: str) -> None:
    """See that the data's own files are what is read: a README.md among them can name any others.

    Raises:
        UserError: a file outside the data's folder or hub page; a kind of file that can hold more than data.
    """
    kind = type(builder).__module__.split(".")[-1]
    if kind not in KINDS:
        raise UserError(f"data {name!r} are of the kind {kind}: give pictures, parquet or JSON instead, unpacked")
    folder = Path(name).expanduser()
    for paths in (builder.config.data_files or {}).values():
        for path in paths:
            if folder.exists():
                inside = "://" not in path and end_of(Path(path)).is_relative_to(end_of(folder))
            else:
                inside = path.startswith((f"hf://datasets/{name}@", f"hf://datasets/{name}/"))
            if not inside:
                raise UserError(f"data {name!r} name the file {path}, outside of them: put a copy inside")


def reason(error: BaseException) -> str:
    """What an error says, on one line: its cause's words where it only says that something failed."""
    said = str(error.__cause__ or error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def hub_answers(seconds: float = 3.0) -> bool:
    """Whether the hub can be reached, asked once and briefly, so that nothing hangs without a network."""
    from huggingface_hub import constants

    address = urlparse(constants.ENDPOINT)
    try:
        with socket.create_connection((address.hostname, address.port or 443), timeout=seconds):
            return True
    except OSError:
        return False


def rows_of(split: Any, columns: list[str], image: str, limit: int, name: str) -> Iterator[dict[str, Any]]:
    """A split's rows with these columns, the first `limit` of them (0: all), pictures as {"bytes", "path"}.

    Raises:
        UserError: the rows break off, for want of a network or because a file is damaged.
    """
    import datasets

    rows = split.select_columns(columns).cast_column(image, datasets.Image(decode=False))
    if isinstance(rows, datasets.IterableDataset):
        batches = rows.take(limit) if limit else rows
        batches = ([row] for row in batches)
    else:
        rows = rows.select(range(min(limit, len(rows)))) if limit else rows
        batches = (batch.to_pylist() for batch in rows.with_format("arrow").iter(BATCH))
    count = 0
    while True:
        try:
            batch = next(batches, None)
        except Exception as error:  # of the network, of the disk, or of a broken file
            raise UserError(f"data {name!r} break off after {count} rows ({reason(error)}): mend or fetch them again") from error
        if batch is None:
            return
        count += len(batch)
        yield from batch


def open_cell(cell: dict[str, Any] | None, name: str) -> BinaryIO:
    """The file in a cell of an undecoded picture column: its bytes, or what its path names.

    Raises:
        ValueError: an empty cell, or a path that leads out of the data's folder and of the library's caches.
        OSError: no such file.
    """
    import datasets
    from datasets.utils.file_utils import xopen
    from huggingface_hub import constants

    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise ValueError("no picture in this row")
    if cell["bytes"] is not None:
        return io.BytesIO(cell["bytes"])
    *archived, outermost = cell["path"].split("::")  # a picture in an archive is zip://picture::archive
    if len(archived) > 1 or not all(hop.startswith(("zip://", "tar://")) for hop in archived):
        raise ValueError("its path is neither a file's nor one in an archive")
    if outermost.startswith(f"hf://datasets/{name}@"):
        return xopen(cell["path"], "rb")
    homes = [Path(name).expanduser(), Path(datasets.config.HF_DATASETS_CACHE), Path(constants.HF_HUB_CACHE)]
    place = Path(outermost).resolve()
    if not any(place.is_relative_to(home.resolve()) for home in homes):
        raise ValueError("it leads out of the data's folder: put a copy inside")
    if not place.is_file():
        raise ValueError("no such file")
    return xopen(cell["path"], "rb") if archived else place.open("rb")


def scratch_file() -> BinaryIO:
    """A file for pictures too many for the memory, in the library's cache.

    It has no name from the start (on Linux and macOS), so that no end of the process, however sudden, leaves it behind.
    """
    import datasets

    cache = Path(datasets.config.HF_DATASETS_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=cache)
