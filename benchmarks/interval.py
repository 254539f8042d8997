"""Guidance at the less noisy times only (Kynkäänniemi et al. 2024, arXiv:2404.07724): accuracy and Fréchet distance.

    python benchmarks/interval.py RUN [--data DIR] [--seeds 4] [--guidances 1.5 1.8] [--highs 1 0.8] [--json FILE]

RUN is a trained run on data with classes, whose judge is used. Each row draws as many pictures from each of several seeds, under
the same prompts, and prints the means over the seeds, and the least and the most.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from pathlib import Path

from common import machine, shown

from minildm import metrics
from minildm.engine.data import balanced, load, to_float
from minildm.engine.device import autocast_to_sample, choose_device
from minildm.engine.evaluate import find_judge, judge_features
from minildm.engine.folder import read_config
from minildm.engine.judges import verdicts
from minildm.engine.memory import keep_freed_memory
from minildm.ldm import LatentDiffusion


def spread(values: list[float], form: str) -> str:
    """Their mean, the least and the most."""
    return f"{statistics.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    keep_freed_memory()
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("run", type=Path)
    options.add_argument("--data", help="where the run's data are now, if they have moved")
    options.add_argument("--samples", type=int, default=2000)
    options.add_argument("--seeds", type=int, default=4)
    options.add_argument("--guidances", type=float, nargs="+", default=[1.25, 1.5, 1.75, 2.0, 2.25])
    options.add_argument("--highs", type=float, nargs="+", default=[1.0, 0.9, 0.8, 0.7])
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    settings, _ = read_config(chosen.run)
    settings = settings if chosen.data is None else dataclasses.replace(settings, data=chosen.data)
    train, test = load(settings)
    judge, model = find_judge(chosen.run, train, settings), LatentDiffusion.load(chosen.run, choose_device())
    features, asked = judge_features(judge), balanced(test, chosen.samples, 0)
    real, reference = (features(to_float(balanced(data, chosen.samples, 1).images)) for data in (train, test))
    floor = metrics.frechet_distance(real, reference)
    document = {
        "command": f"python benchmarks/interval.py RUN {shown(sys.argv[2:])}".rstrip(),
        "machine": machine(),
        "floor": floor,
        "rows": [],
    }
    print(f"floor {floor:.2f}\n\n| guidance | from, of T, down | right | floors |\n|---|---|---|---|", flush=True)
    for guidance in chosen.guidances:
        for high in chosen.highs:
            right, floors = [], []
            for seed in range(1, chosen.seeds + 1):
                with autocast_to_sample(settings, choose_device()):
                    options = settings.sampling(guidance, high)
                    images = model.generate(asked.captions(), **options, seed=seed * chosen.samples).cpu()
                right.append(metrics.prompt_accuracy(verdicts(judge, images, asked.attributes))[0])
                floors.append(metrics.frechet_distance(features(images), reference) / floor)
            document["rows"].append({"guidance": guidance, "high": high, "right": right, "floors": floors})
            print(f"| {guidance:g} | {high:g} | {spread(right, '.2%')} | {spread(floors, '.2f')} |", flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
