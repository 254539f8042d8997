"""Measure the README's table again: the demo and the MNIST run, from nothing, then sampling speed.

    python benchmarks/figures.py [--mnist FOLDER] [--out FOLDER] [--json benchmarks/figures.json]

Runs that FOLDER already holds (demo, mnist) are not trained again. Prints the table as Markdown, and stores the numbers with the
commands and the machine.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from common import machine

from minildm.engine.device import autocast_to_sample, choose_device
from minildm.engine.folder import read_config
from minildm.engine.report import guided
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
        if not (chosen.out / name / "report.md").exists():
            subprocess.run([sys.executable, "-m", "minildm", *command], check=True)
        judged = json.loads((chosen.out / name / "evaluation.json").read_text())
        report = (chosen.out / name / "report.md").read_text()
        minutes, memory = re.search(r"\(([\d.]+) minutes\)", report), re.search(r"of the process: ([\d.]+) GB", report)
        measured = {"minutes": float(minutes[1]), "peak_memory_gb": float(memory[1]) if memory else None}
        results[name] = {"command": f"minildm {' '.join(command)}", **measured, **judged}
    results["sampling"] = digits_per_second(chosen.out / "mnist")
    chosen.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(table(results))


def table(results: dict) -> str:
    """The README's table."""
    runs = results["demo"], results["mnist"]

    def share(run: dict, name: str) -> str:
        if run[name] is None:
            return "–"
        low, high = run[f"{name}_interval"]
        return f"{run[name]:.1%} ({low:.1%} to {high:.1%})"

    rows = {
        "time for autoencoder, caching, denoiser, final samples": [f"{run['minutes']:.2f} minutes" for run in runs],
        "peak memory": [f"{run['peak_memory_gb']} GB" for run in runs],
        "pictures that show all of their prompt (95% interval)": [share(run, "prompt_accuracy") for run in runs],
        "the same, shape-colour pairs never seen in training": [share(run, "prompt_accuracy_held_out") for run in runs],
        "Fréchet distance in the judge's features; its floor; ratio": [
            f"{run['frechet']:.2f}; {run['frechet_floor']:.2f}; {run['frechet'] / run['frechet_floor']:.2f}" for run in runs
        ],
        "the judge on real test pictures": [share(run, "judge_accuracy") for run in runs],
        "the judge on the autoencoder's reconstructions": [share(run, "reconstruction_accuracy") for run in runs],
        "distance to the nearest training picture; of real test pictures": [
            f"{run['nearest_train_distance']:.3f}; {run['nearest_train_distance_of_test']:.3f}" for run in runs
        ],
        "pictures judged; guidance; steps": [
            f"{run['samples']}; {guided(run['guidance'], run['guidance_high'])}; {run['steps']}" for run in runs
        ],
        "pictures per second while judging": [f"{run['images_per_second']:.1f}" for run in runs],
        "pictures per second, 100 at once, guided, 20 steps": ["", f"{results['sampling']['images_per_second']:.1f}"],
    }
    head = ["| | `make demo` | `minildm train mnist --minutes 5` |", "|---|---|---|"]
    return "\n".join([*head, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())])


def digits_per_second(run: Path, repeats: int = 5) -> dict:
    """100 digits, 20 steps, guidance on: the median and the extremes over a few repeats after one to warm up."""
    model, settings = LatentDiffusion.load(run, choose_device()), read_config(run)[0]
    prompts = [f"a handwritten {word}" for word in "zero one two three four five six seven eight nine".split()] * 10
    rates = []
    for seed in range(repeats + 1):
        start = time.monotonic()
        with autocast_to_sample(settings, choose_device()):
            model.generate(prompts, **settings.sampling(steps=20), seed=seed).cpu()
        rates.append(len(prompts) / (time.monotonic() - start))
    rates = rates[1:]
    return {"images_per_second": sorted(rates)[repeats // 2], "spread": [min(rates), max(rates)], "images": len(prompts)}


if __name__ == "__main__":
    main()
