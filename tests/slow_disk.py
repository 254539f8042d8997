"""minildm on a disk that is slow: `python slow_disk.py SECONDS ARGUMENTS...` does what `minildm ARGUMENTS...` does.

The package is as it always is; what it calls to write is slowed down from outside, so that a kill can be aimed at the
middle of a write. Files grow piece by piece, safetensors' under a temporary name in the same folder, as the library
itself writes them; each sync and each rename takes a while.
"""

import os
import sys
import time
from pathlib import Path

import safetensors.torch

from minildm import tensors as weights
from minildm.engine.cli import main

SECONDS = float(sys.argv[1])  # that one file of tensors takes
PIECES = 20


def write_slowly(path: Path, content: bytes, seconds: float) -> None:
    """Write piece by piece."""
    size = max(1, -(-len(content) // PIECES))
    with path.open("wb") as file:
        for start in range(0, len(content), size):
            file.write(content[start : start + size])
            file.flush()
            time.sleep(seconds / PIECES)


def save_file(tensors: dict, path: Path, metadata: dict | None = None) -> None:
    """safetensors.torch.save_file, slowly."""
    aside = Path(path).with_name(".tmpSlow1")
    write_slowly(aside, safetensors.torch.save(tensors, metadata), SECONDS)
    aside.replace(path)


def write_text(path: Path, text: str, encoding: str = "utf-8") -> int:
    """Path.write_text, slowly."""
    write_slowly(path, text.encode(encoding), SECONDS / 10)
    return len(text)


def slow(function, seconds: float):
    """The function, after a while."""

    def slowed(*args, **kwargs):
        time.sleep(seconds)
        return function(*args, **kwargs)

    return slowed


weights.save_file = save_file
Path.write_text = write_text
Path.replace = slow(Path.replace, SECONDS / 20)
os.fsync = slow(os.fsync, SECONDS / 20)

if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
