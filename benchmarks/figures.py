"""Measure the README's table again: the demo and the MNIST run, from nothing, then sampling speed.

    python benchmarks/figures.py [--mnist FOLDER] [--out FOLDER] [--json benchmarks/figures.json]

Prints the table as Markdown, and stores the numbers with the commands and the machine.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

from minildm.engine.evaluate import sample
from minildm.engine.train import stored_settings
from minildm.ldm import LatentDiffusion


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--mnist", default="ylecun/mnist", help="hub name or folder")
    options.add_argument("--out", type=Path, default=Path("runs/figures"))
    options.add_argument("--json", type=Path, default=Path("benchmarks/figures.json"))
    chosen = options.parse_args()
    runs = {
        "demo": ["demo", "--out", str(chosen.out / "demo")],
        "mnist": ["train", "mnist", "--data", chosen.mnist, "--minutes", "5", "--out", str(chosen.out / "mnist")],
    }
    results = {"machine": machine()}
    for name, command in runs.items():
        start = time.monotonic()
        if not (chosen.out / name / "report.md").exists():
            subprocess.run([sys.executable, "-m", "minildm", *command], check=True)
        judged = json.loads((chosen.out / name / "evaluation.json").read_text())
        report = (chosen.out / name / "report.md").read_text()
        results[name] = {"command": f"minildm {' '.join(command)}", "wall_seconds": time.monotonic() - start, **judged}
        results[name]["report"] = [line for line in report.splitlines() if "minutes)" in line or "Peak memory" in line]
    results["sampling"] = digits_per_second(chosen.out / "mnist")
    chosen.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(results, indent=1, ensure_ascii=False))


def digits_per_second(run: Path, repeats: int = 5) -> dict:
    """100 digits, 20 steps, guidance on: the median and the extremes over a few repeats after one to warm up."""
    model = LatentDiffusion.load(run)
    prompts = [f"a handwritten {word}" for word in "zero one two three four five six seven eight nine".split()] * 10
    guidance = stored_settings(run).guidance
    rates = [len(prompts) / sample(model, prompts, guidance, 20, seed)[1] for seed in range(repeats + 1)][1:]
    return {"images_per_second": sorted(rates)[repeats // 2], "spread": [min(rates), max(rates)], "images": len(prompts)}


def machine() -> str:
    """The processor, the number of threads, and torch's version."""
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


if __name__ == "__main__":
    main()
