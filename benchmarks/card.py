"""Our training step on a graphics card: images a second, share of its peak, precision and compiler; and two curves of loss.

    python benchmarks/card.py [--seconds 3] [--json benchmarks/card.json] [--curves RUN] [--steps 1000] [--only SIZE]

For each size and batch a step is timed in float32, in bf16, and in bf16 with the U-Net compiled by `torch.compile`. The peak is
the most that one bf16 matrix product or convolution reaches here (`minildm bench`). With --curves, RUN being a finished run, two
fresh denoisers are trained on its latents from the same weights, in the same order, under the same noise, in float32 and in bf16,
and the mean loss of every twentieth part is printed. How many seconds 99% take says `quality.py mnist`. Works on a CPU as well.
"""

import argparse
import dataclasses
import gc
import itertools
import json
import statistics
import sys
from pathlib import Path

import torch
from common import SIZES, fresh, machine, open_run, settings_of, shown

from minildm.engine.bench import ceiling, gflop, stages, timed
from minildm.engine.device import choose_device, peak_memory
from minildm.engine.memory import keep_freed_memory
from minildm.engine.stages import DenoiserStage

ROWS = (  # size, batches beside its own
    ("mnist", (512, 2048)),
    ("cifar10", (512, 2048)),
    ("128 pixels", (256,)),
    ("128 pixels, 100 M", (256,)),
)
WAYS = (("float32", False), ("bf16", False), ("bf16", True))  # precision, compiled


def step_of(size: str, batch: int, precision: str, compiled: bool, seconds: float) -> dict:
    """One way to take a step, timed."""
    device = choose_device()
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    settings = dataclasses.replace(settings_of(size)[0], batch=batch, autoencoder_batch=1, precision=precision)
    model, _, stage = stages(settings)
    work = gflop(stage)
    if compiled:
        torch.compiler.reset()  # else, after eight models, it would leave the next as they are
        model.unet.compile()
    count = itertools.count()
    took = timed(lambda: stage.step(next(count)), device, seconds, warm=5)
    return {
        "parameters": sum(parameter.numel() for parameter in model.unet.parameters()),
        "batch": batch,
        "precision": precision,
        "compiled": compiled,
        "images_per_second": batch / took.median,
        "slowest": batch / max(took.seconds),
        "fastest": batch / min(took.seconds),
        "gflop_per_second": work / took.median,
        "peak_memory_gb": peak_memory(device),
    }


def curve(run: Path, precision: str, steps: int) -> list[float]:
    """The loss of each step of a fresh denoiser on the run's latents."""
    settings, trained, train, _, latents = open_run(run)
    settings = dataclasses.replace(settings, steps=steps, precision=precision)
    stage = DenoiserStage(fresh(settings, trained), latents, train, settings)
    stage.network.train()
    return [float(stage.step(step)) for step in range(steps)]


def main() -> None:
    keep_freed_memory()
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=3.0)
    options.add_argument("--json", type=Path)
    options.add_argument("--curves", type=Path)
    options.add_argument("--steps", type=int, default=1000)
    options.add_argument("--only", help="a size")
    chosen = options.parse_args()
    document: dict = {
        "command": f"python benchmarks/card.py {shown(sys.argv[1:])}".rstrip(),
        "machine": machine(),
        "ceiling": ceiling(choose_device()),
        "rows": [],
    }
    top = max(document["ceiling"].values())
    print(f"{document['machine']}\n" + ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in document["ceiling"].items()))
    print(
        "\n| size | batch | precision | compiled | images/s | GFLOP/s | share | GB at most |\n|---|---|---|---|---|---|---|---|"
    )
    for size, more in ROWS if chosen.only is None else [(chosen.only, ())]:
        for batch, (precision, compiled) in itertools.product((SIZES[size][2], *more), WAYS):
            row = step_of(size, batch, precision, compiled, chosen.seconds)
            document["rows"].append({"size": size, **row})
            rate = f"{row['images_per_second']:.0f} ({row['slowest']:.0f} to {row['fastest']:.0f})"
            reached = f"{row['gflop_per_second']:.0f} | {row['gflop_per_second'] / top:.0%} | {row['peak_memory_gb'] or 0:.2f}"
            print(f"| {size} | {batch} | {precision} | {'yes' if compiled else 'no'} | {rate} | {reached} |", flush=True)
    if chosen.curves:
        document["curves"] = {precision: curve(chosen.curves, precision, chosen.steps) for precision in ("float32", "bf16")}
        part = max(1, chosen.steps // 20)
        print("\n| steps | loss in float32 | in bf16 |\n|---|---|---|")
        for first in range(0, chosen.steps, part):
            means = (statistics.fmean(losses[first : first + part]) for losses in document["curves"].values())
            print(f"| {first + 1} to {first + part} | " + " | ".join(f"{mean:.4f}" for mean in means) + " |")
    if chosen.json:
        chosen.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
