"""What the library really does while it reads data and weights: nothing is unpickled, run, or sent anywhere.

`test_book_order.py` searches the source for forbidden calls; here Python itself reports them as they happen, those of
the libraries that we call included.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_FLAGS
from PIL import Image

WATCHED = r"""
import sys

from minildm.engine.cli import main

FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.spawn", "os.posix_spawn", "subprocess.Popen", "socket.connect")


def watch(event, arguments):
    if event in FORBIDDEN:
        print("FORBIDDEN", event, arguments, file=sys.stderr)
        raise SystemExit(99)


import matplotlib.pyplot, datasets, torch  # what they do on import is not what is watched

sys.addaudithook(watch)
if sys.argv[1] == "unpickle":
    import pickle

    pickle.loads(pickle.dumps(Exception("x")))
elif sys.argv[1] == "run":
    import os

    os.system("true")
sys.exit(main(sys.argv[1:]))
"""


def watched(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """`minildm ARGUMENTS` with a watch on what it calls."""
    environment = os.environ | {"HF_DATASETS_CACHE": str(cwd / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", WATCHED, *arguments]
    root = str(Path(__file__).parent.parent)
    return subprocess.run(command, cwd=cwd, env=environment | {"PYTHONPATH": root}, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_training_sampling_and_resuming_call_nothing_forbidden(tmp_path):
    noise = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for place in range(12):
        Image.fromarray(noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "data" / f"{place}.png")
    lines = [json.dumps({"file_name": f"{place}.png", "text": f"number {place}"}) for place in range(12)]
    (tmp_path / "data" / "metadata.jsonl").write_text("\n".join(lines))
    train = ["train", "folder", "--data", "data", "--out", "run", *TINY_FLAGS, "--samples", "0"]
    for arguments in (train, [*train[:2], "--out", "run", "--resume", "--samples", "0"], ["sample", "run", "number 3"]):
        done = watched(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("deed", ["unpickle", "run"])
def test_the_watch_would_notice(deed, tmp_path):
    done = watched(deed, cwd=tmp_path)
    assert done.returncode == 99 and "FORBIDDEN" in done.stderr
