"""Kill a training run at a random moment, resume it, and compare what comes out with a run that was never killed.

Used by `test_kill.py` (a few kills) and by `benchmarks/kills.py` (many).
"""

import hashlib
import io
import json
import os
import queue
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

SLOW_DISK = Path(__file__).with_name("slow_disk.py")
SECONDS = 0.6  # that the slow disk takes for a checkpoint's tensors
PARTS = ("tokenizer", "autoencoder", "caching", "denoiser")  # where kills are aimed at, besides writes of checkpoints
TINY = (
    "--limit 260 --autoencoder-steps 30 --autoencoder-batch 16 --steps 40 --batch 16 --sample-steps 3 --checkpoint-every 9 "
    "--preview-every 15 --samples 0 --model.T 50 --model.unet.widths 16 32 --model.unet.heads 2 2 --model.unet.context-width 32 "
    "--model.unet.groups 8 --model.unet.in-channels 4 --model.unet.out-channels 4 --model.autoencoder.latent-channels 4 "
    "--model.autoencoder.widths 8 8 16 --model.autoencoder.groups 4 --model.text.width 32 --model.text.layers 1 "
    "--model.text.heads 2 --model.image-size 32 --model.text.vocabulary 900 --model.text.length 16"
).split()


def make_pictures(folder: Path, count: int = 320) -> None:
    """A parquet file of small pictures with captions of many words, two of the pictures broken."""
    random_numbers, words = np.random.default_rng(0), [f"{first}{second}" for first in "bcdfg" for second in ("a", "ona", "ilu")]
    rows: dict[str, list] = {"image": [], "text": []}
    for place in range(count):
        buffer = io.BytesIO()
        Image.fromarray(random_numbers.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(buffer, "PNG")
        rows["image"].append({"bytes": b"broken" if place in (7, 100) else buffer.getvalue(), "path": None})
        rows["text"].append(" ".join(random_numbers.choice(words, 12)))
    folder.mkdir(parents=True)
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "train-00000-of-00001.parquet")


class Child:
    """A training process whose progress is watched: `marks` maps each part that it has reached to the moment."""

    def __init__(self, out: Path, arguments: list[str], seconds: float) -> None:
        command = [sys.executable, str(SLOW_DISK), str(seconds), "train", *arguments, "--out", str(out)]
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
        self.start, self.marks, self.said = time.monotonic(), {}, ""
        self._reached: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while text := os.read(self.process.stdout.fileno(), 4096).decode("utf-8", "replace"):
            self.said += text
            for part in re.findall(r"(data|tokenizer|autoencoder|caching|denoiser|report)(?::|    )", text):
                if part not in self.marks:
                    self.marks[part] = time.monotonic() - self.start
                    self._reached.put(part)
        self._reached.put(None)

    def wait_for(self, part: str, patience: float = 120) -> bool:
        """Until it reaches this part; False when it ends before."""
        while part not in self.marks:
            if self._reached.get(timeout=patience) is None:
                return part in self.marks
        return True

    def kill(self) -> str:
        """SIGKILL. Returns the part that it had reached last."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        return max(self.marks, key=self.marks.get, default="start")

    def end(self, patience: float = 300) -> int:
        """Wait for its own end. Returns the exit code."""
        return self.process.wait(patience)


def outcome(out: Path) -> dict[str, Any]:
    """What must not depend on kills: the weights, the metrics without their speeds, and the names of all files."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
        "metrics": [(line["stage"], line["step"], line["loss"]) for line in lines],
        "files": sorted(path.relative_to(out).as_posix() for path in out.rglob("*")),
    }


class Trials:
    """Runs of one kind, and what the run that is never killed gives.

    Args:
        folder: for all of them.
        arguments: of `minildm train`.
        seed: of the moments.
    """

    def __init__(self, folder: Path, arguments: list[str], seed: int) -> None:
        self.folder, self.arguments, self.random = folder, arguments, random.Random(seed)
        child = Child(folder / "whole", arguments, SECONDS)
        assert child.end() == 0, child.said
        self.whole, marks = outcome(folder / "whole"), child.marks
        ends = [*PARTS[1:], "report"]
        self.length = {part: marks[end] - marks[part] for part, end in zip(PARTS, ends, strict=True)}
        self.count = 0

    def kill(self, *aims: str) -> list[dict[str, Any]]:
        """One run, killed in each of these parts, or in a checkpoint's write ("write"), and resumed; in the end to its end.

        Returns: of each kill, where and when it came and what lay in the folder; in the last record also what of the outcome
        is wrong ("" for nothing).
        """
        self.count += 1
        out = self.folder / f"{self.count}-{'-'.join(aims)}"
        records = [self._kill(out, aim) for aim in aims]
        child = Child(out, self.again(out), 0.0)
        code = child.end()
        records[-1]["wrong"] = self.compare(out) if code == 0 else child.said[-500:]
        return records

    def again(self, out: Path) -> list[str]:
        """The arguments that start this run or go on with it: without a config.json nothing had begun."""
        return [self.arguments[0], "--resume", "--samples", "0"] if (out / "config.json").exists() else self.arguments

    def _kill(self, out: Path, aim: str) -> dict[str, Any]:
        child = Child(out, self.again(out), SECONDS)
        if aim == "write":
            number = self.random.randrange(min(8, self._seen(out)), 9)  # of the 9 that the run writes
            self._until(child, lambda: len(list(out.glob(".step-*.partial"))) and self._seen(out) > number)
            delay = self.random.uniform(0, SECONDS)
        else:
            assert child.wait_for(aim), child.said
            delay = self.random.uniform(0, self.length[aim])
        time.sleep(delay)
        reached = child.kill()
        half = [path.name for path in out.rglob(".*.partial")] if out.exists() else []
        latest = (out / "latest").read_text().strip() if (out / "latest").exists() else None
        inside = any(name.startswith(".step-") for name in half)
        seconds = round(time.monotonic() - child.start, 2)
        return {"aim": aim, "reached": reached, "seconds": seconds, "latest": latest, "half_written": half, "in_write": inside}

    def _seen(self, out: Path) -> int:
        """How many checkpoints the run has begun to write, from their numbers: every 9 steps and at the end of a stage."""
        numbers = [int(path.name.split("-")[1].split(".")[0]) for path in (*out.glob(".step-*"), *out.glob("step-*"))]
        places = [9, 18, 27, 30, 39, 48, 57, 66, 70]
        return places.index(max(numbers)) + 1 if numbers else 0

    def _until(self, child: Child, holds: Callable[[], Any], patience: float = 120) -> None:
        end = time.monotonic() + patience
        while not holds():
            assert child.process.poll() is None and time.monotonic() < end, child.said
            time.sleep(0.002)

    def compare(self, out: Path) -> str:
        """What differs from the run that was never killed."""
        got = outcome(out)
        return ", ".join(name for name, value in self.whole.items() if got[name] != value)
