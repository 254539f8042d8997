"""Memory under load: an hour of training, and 10,000 prompts in one call.

    python benchmarks/load.py [--minutes 60] [--prompts 10000] [--json benchmarks/load.json] [--picture benchmarks/load.png]

Trains the shapes preset in a process of its own whose resident memory is read every few seconds, then samples all
prompts from that run with one call of `generate`, again in a process of its own. Linux.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

import matplotlib
from common import machine

matplotlib.use("Agg")
import matplotlib.pyplot as plt

EVERY = 5.0  # seconds between readings
WARM = 120.0  # seconds into a stage after which its memory should stay as it is

SAMPLE = """
import sys
from minildm.ldm import LatentDiffusion
model = LatentDiffusion.load(sys.argv[1])
images = model.generate([f"picture {i} of a red circle" for i in range(int(sys.argv[2]))], guidance=2.0, steps=20)
print(tuple(images.shape), float(images.abs().max()))
"""


def resident(pid: int) -> float:
    """The resident memory of a process in MB; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]  # none between its end and its burial
    return int(sizes[0]) / 1024 if sizes else 0.0


def watch(command: list[str], folder: Path | None = None) -> list[tuple[float, float, str]]:
    """Run a command. Returns (seconds, resident MB, stage) every few seconds; the stage is that of the last line of metrics."""
    process, start, readings = subprocess.Popen(command, stderr=subprocess.DEVNULL), time.monotonic(), []
    while process.poll() is None:
        stage = ""
        if folder is not None and (folder / "metrics.jsonl").exists():
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            stage = json.loads(lines[-1])["stage"] if lines else ""
        size = resident(process.pid)
        if size:
            readings.append((time.monotonic() - start, size, stage))
        time.sleep(EVERY if folder is not None else 1.0)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return readings


def growth(readings: list[tuple[float, float, str]], stage: str) -> dict[str, float]:
    """The median memory in the minute after the warm-up of a stage and in its last minute."""
    of_stage = [(seconds, size) for seconds, size, now in readings if now == stage]
    first, last = of_stage[0][0] + WARM, of_stage[-1][0] - 60
    warm = statistics.median(size for seconds, size in of_stage if first <= seconds <= first + 60)
    end = statistics.median(size for seconds, size in of_stage if seconds >= last)
    return {"minutes": (of_stage[-1][0] - of_stage[0][0]) / 60, "warm_mb": warm, "end_mb": end, "growth": end / warm - 1}


def draw(readings: list[tuple[float, float, str]], path: Path) -> None:
    """Memory against time, a colour for each stage."""
    figure, axis = plt.subplots(figsize=(9, 3.2))
    for stage, colour in (("", "#999999"), ("autoencoder", "#0072B2"), ("denoiser", "#D55E00")):
        some = [(seconds / 60, size) for seconds, size, now in readings if now == stage]
        axis.plot(*zip(*some, strict=True), ".", markersize=2, color=colour, label=stage or "start") if some else None
    axis.set(xlabel="minutes", ylabel="resident memory, MB", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(markerscale=5, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/load.json"))
    parser.add_argument("--picture", type=Path, default=Path("benchmarks/load.png"))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "minildm", "train", "shapes", "--out", str(run)]
        readings = watch([*command, "--minutes", str(chosen.minutes), "--samples", "0"], run)
        draw(readings, chosen.picture)
        result = {"training": {stage: growth(readings, stage) for stage in ("autoencoder", "denoiser")}}
        sampled = watch([sys.executable, "-c", SAMPLE, str(run), str(chosen.prompts)])
    tenth = len(sampled) // 10
    result["sampling"] = {
        "prompts": chosen.prompts,
        "seconds": sampled[-1][0],
        "mb_after_a_tenth": sampled[tenth][1],
        "peak_mb": max(size for _, size, _ in sampled),
        "images_mb": chosen.prompts * 3 * 32 * 32 * 4 / 2**20,
    }
    chosen.json.write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
