"""What a U-Net loses with one of its parts: skips, time, or attention taken out, all else equal, and each trained alike.

    python benchmarks/unet_ablation.py [--seeds 2] [--steps 500] [--json benchmarks/unet_ablation.json]

A small U-Net predicts v on digits of 16×16 pixels (MNIST where MINILDM_DATA names it, shapes otherwise). Parts are taken out from
outside, by configuration or hooks: the class has no flags for it. Every row sees the same pictures, times and noises in the same
order, and is judged on the same held-out pictures with the same noises, at the end and after EARLY steps. Chapter 09 shows the
table and runs one row again, that far.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from common import machine
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from minildm.config import UNetConfig
from minildm.ddpm import spread_times
from minildm.engine.book import grey_pictures
from minildm.objectives import target, to_x0
from minildm.schedule import NoiseSchedule, q_sample
from minildm.unet import ResidualBlock, UNet

Network = Callable[[Tensor, Tensor], Tensor]
CONFIG = UNetConfig(1, 1, (16, 32, 32), 1, (False, False, True), (1, 2, 2), context_width=None, groups=1)
SCHEDULE, BATCH, RATE, WARMUP, EARLY = NoiseSchedule.cosine(), 32, 2e-3, 30, 100
TIMES = (5, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 980)  # at which held-out pictures are judged
DRAWN, DRAWN_TIMES = 4, (50, 500, 900)  # held-out pictures whose x̂_0 is kept


def whole(network: UNet) -> Network:
    """The network as it is."""
    return network


def without_skips(network: UNet) -> Network:
    """The way up reads zeros where it would read what the way down has left."""
    width = network.config.widths[-1]  # of the map that arrives from below
    for stages in network.up:
        for stage in stages:

            def pre(_: nn.Module, given: tuple, width: int = width) -> tuple:
                return (torch.cat([given[0][:, :width], torch.zeros_like(given[0][:, width:])], 1), *given[1:])

            stage.register_forward_pre_hook(pre)
            width = stage.residual.conv1.out_channels
    return network


def without_time(network: UNet) -> Network:
    """Whatever the time is, the network is told 500."""
    return lambda x_t, t: network(x_t, torch.full_like(t, 500))


def time_once(network: UNet) -> Network:
    """The first residual block is told the time, the others are not."""
    for block in [part for part in network.modules() if isinstance(part, ResidualBlock)][1:]:
        block.time = None
    return network


PLAIN = dataclasses.replace(CONFIG, attention=(False,) * 3, middle_attention=False)
VARIANTS = {  # name: configuration, and what is done to the network
    "complete": (CONFIG, whole),
    "no attention": (PLAIN, whole),
    "time in one block only": (CONFIG, time_once),
    "no time": (CONFIG, without_time),
    "no skips": (CONFIG, without_skips),
}


def small_pictures(train: int = 10000, test: int = 256) -> tuple[str, Tensor, Tensor]:
    """What the pictures are, and those to train on and to judge with, N×1×16×16 in [-1, 1]."""
    pictures = grey_pictures(train, test)
    return pictures.name, avg_pool2d(pictures.train, 2), avg_pool2d(pictures.test, 2)


def training(name: str, seed: int, pictures: Tensor, steps: int, until: int) -> Iterator[tuple[int, Network, int]]:
    """Steps of squared error in v for one variant, up to `until`.

    Yields, after EARLY steps and after the last: the step, the network, and how many of its parameters a gradient reaches.
    The rate stays until half of `steps` are done, then falls along half a cosine.
    """
    torch.manual_seed(seed)  # the weights
    config, change = VARIANTS[name]
    network = UNet(config)
    predict, generator = change(network), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), RATE)
    for step in range(1, until + 1):
        fall = max(0.0, 2 * step / steps - 1)
        optimiser.param_groups[0]["lr"] = RATE * min(1, step / WARMUP) * (1 + math.cos(math.pi * fall)) / 2
        x0 = pictures[torch.randint(len(pictures), (BATCH,), generator=generator)]
        t, noise = spread_times(BATCH, SCHEDULE.T, generator), torch.randn(x0.shape, generator=generator)
        loss = (predict(q_sample(SCHEDULE, x0, t, noise), t) - target(x0, noise, t, SCHEDULE, "v")).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step in (EARLY, until):
            yield step, predict, sum(part.numel() for part in network.parameters() if part.grad is not None and part.grad.any())


@torch.no_grad()
def errors(predict: Network, pictures: Tensor) -> Tensor:
    """The squared error in v of each picture at each of TIMES, averaged over pixels, N×len(TIMES). The noises are fixed."""
    found, generator = [], torch.Generator().manual_seed(1)
    for time_ in TIMES:
        t, noise = torch.full((len(pictures),), time_), torch.randn(pictures.shape, generator=generator)
        said = predict(q_sample(SCHEDULE, pictures, t, noise), t)
        found.append((said - target(pictures, noise, t, SCHEDULE, "v")).square().flatten(1).mean(1))
    return torch.stack(found, 1)


@torch.no_grad()
def drawn(predict: Network | None, pictures: Tensor) -> Tensor:
    """x̂_0 of some pictures at DRAWN_TIMES, one noise for all times, as whole numbers 0 … 255; without a network, x_t itself."""
    found, noise = [], torch.randn(pictures.shape, generator=torch.Generator().manual_seed(2))
    for time_ in DRAWN_TIMES:
        t = torch.full((len(pictures),), time_)
        x_t = q_sample(SCHEDULE, pictures, t, noise)
        found.append(to_x0(predict(x_t, t), x_t, t, SCHEDULE, "v") if predict else x_t / 2)  # halved: few are cut off
    return ((torch.stack(found).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def judged(found: Tensor, reference: Tensor) -> dict:
    """A row's errors as means with standard errors over pictures, and how much more they are than the complete network's."""
    each, more = found.mean(1), (found - reference).mean(1)  # of each picture, over times
    pairs = {"loss": each, "more": more}
    numbers = {name: value.mean().item() for name, value in pairs.items()}
    numbers |= {f"{name}_error": (value.std() / len(value) ** 0.5).item() for name, value in pairs.items()}
    return {name: round(value, 5) for name, value in numbers.items()} | {"by_time": [round(v, 5) for v in found.mean(0).tolist()]}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--steps", type=int, default=500)
    options.add_argument("--json", type=Path, default=Path("benchmarks/unet_ablation.json"))
    chosen = options.parse_args()
    data, train, test = small_pictures()
    about = {
        "command": f"python benchmarks/unet_ablation.py --seeds {chosen.seeds} --steps {chosen.steps}",
        "machine": machine(),
        "data": data,
        "steps": chosen.steps,
        "early": EARLY,
        "batch": BATCH,
        "pictures": len(test),
        "times": TIMES,
        "drawn_times": DRAWN_TIMES,
        "zero": errors(lambda x_t, t: torch.zeros_like(x_t), test).mean(0).tolist(),  # of a network that always says 0
        "noisy": drawn(None, test[:DRAWN]).flatten(-3).tolist(),
        "clean": ((test[:DRAWN] + 1) * 127.5).round().to(torch.uint8).flatten(-3).tolist(),
    }
    rows: dict[str, list[dict]] = {name: [] for name in VARIANTS}
    reference: dict[tuple[int, int], Tensor] = {}  # errors of the complete network, by seed and step
    for seed in range(chosen.seeds):
        for name in VARIANTS:
            row: dict = {"seed": seed}
            for step, predict, row["parameters"] in training(name, seed, train, chosen.steps, chosen.steps):
                found = errors(predict, test)
                row["early" if step == EARLY else "end"] = judged(found, reference.setdefault((seed, step), found))
            print(name, row, flush=True)
            rows[name].append(row | ({"drawn": drawn(predict, test[:DRAWN]).flatten(-3).tolist()} if seed == 0 else {}))
            chosen.json.write_text(json.dumps({**about, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
