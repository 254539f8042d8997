"""Pictures against calls of the network: every sampler and spacing on one small trained denoiser.

    python benchmarks/samplers.py [--steps 1500] [--draws 200] [--json benchmarks/samplers.json]

The pictures and the network are those of chapter 10: MNIST (without it, grey shapes) at 16×16, handed to a small U-Net as 4
channels of 8×8; it predicts v, with the cosine schedule. For each row: the Fréchet distance, on the 256 pixels, of the draws from
test pictures, and how far the draws are from where the network's own probability flow ends. Chapter 11 shows the table and trains
the network anew, for a shorter time.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import ON_PIXELS, machine, small
from torch import Tensor
from torch.nn.functional import pixel_shuffle

from minildm.ddpm import Denoise, ancestral, denoiser, train_ddpm
from minildm.engine.book import grey_pictures
from minildm.metrics import frechet_distance
from minildm.samplers import ddim, dpmpp, heun, karras_times, time_grid, time_of_log_snr
from minildm.schedule import NoiseSchedule
from minildm.unet import UNet

SCHEDULE, NEAR, SHOWN, LOUDEST = NoiseSchedule.cosine(1000), 100, 6, 80.0


def loudest() -> float:
    """Where r = σ/a is 80, as in Karras et al.: with the cosine schedule it is in the tens of thousands at T."""
    return time_of_log_snr(SCHEDULE, torch.tensor(-math.log(LOUDEST))).item()


def even(calls: int) -> Tensor:
    """Times at equal distances in λ, from where r = 80 to t = 1, and 0."""
    ends = -math.log(LOUDEST), SCHEDULE.log_snr(torch.tensor(1)).item()
    return torch.cat([time_of_log_snr(SCHEDULE, torch.linspace(*ends, calls, dtype=torch.float64)), torch.zeros(1)])


GRIDS: dict[str, Callable[[int], Tensor]] = {
    "trailing": lambda calls: time_grid(SCHEDULE.T, calls),
    "Karras": lambda calls: karras_times(SCHEDULE, calls, first=loudest()),
    "even": even,
}
ROWS = [
    *(("ddpm", "trailing", calls) for calls in (10, 20, 50, 100)),
    *(("ddim", "trailing", calls) for calls in (5, 10, 20, 50)),
    *(("ddim", spacing, calls) for spacing in ("Karras", "even") for calls in (10, 20)),
    *(("heun", spacing, calls) for spacing in GRIDS for calls in (10, 20)),
    *(("dpmpp", "trailing", calls) for calls in (5, 10, 20, 50)),
    *(("dpmpp", spacing, calls) for spacing in ("Karras", "even") for calls in (10, 20)),
]
PICTURED = [("ddpm", "trailing", 100), ("ddim", "trailing", 5), ("dpmpp", "trailing", 5), ("dpmpp", "trailing", 20)]
SAMPLER = {"ddpm": ancestral, "ddim": ddim, "heun": heun, "dpmpp": dpmpp}


def drawn(denoise: Denoise, name: str, spacing: str, calls: int, x_T: Tensor) -> Tensor:
    """The draws from this noise. Heun asks twice a step, but once in the last."""
    grid, parts = GRIDS[spacing]((calls + 1) // 2 if name == "heun" else calls), []
    for part in x_T.split(200):
        torch.manual_seed(1)
        *_, (_, x, _) = SAMPLER[name](denoise, SCHEDULE, part, grid)
        parts.append(x)
    return torch.cat(parts)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=1500)
    options.add_argument("--draws", type=int, default=200)
    options.add_argument("--json", type=Path, default=Path("benchmarks/samplers.json"))
    chosen, pictures = options.parse_args(), grey_pictures(20000, 5000)
    torch.manual_seed(0)
    network, start = UNet(ON_PIXELS), time.perf_counter()
    network, losses = train_ddpm(network, small(pictures.train), SCHEDULE, "v", chosen.steps, torch.Generator().manual_seed(0))
    print(f"loss {sum(losses[-100:]) / 100:.4f}", flush=True)
    seconds, denoise, rows, shown = time.perf_counter() - start, denoiser(network, SCHEDULE, "v"), [], {}
    held_out = small(pictures.test).flatten(1)
    floor = frechet_distance(small(pictures.train[: chosen.draws]).flatten(1), held_out)
    x_T = torch.randn(chosen.draws, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        flow = drawn(denoise, "heun", "Karras", 99, x_T[:NEAR])
        for name, spacing, calls in ROWS:
            start = time.perf_counter()
            x = drawn(denoise, name, spacing, calls, x_T)
            row = {"sampler": name, "spacing": spacing, "calls": calls, "frechet": frechet_distance(x.flatten(1), held_out)}
            row |= {"miss": (x[:NEAR] - flow).square().mean().sqrt().item(), "seconds": time.perf_counter() - start}
            rows.append(row)
            print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
            if (name, spacing, calls) in PICTURED:
                shown[f"{name}, {spacing}, {calls}"] = pixels(x[:SHOWN])
    shown["flow"] = pixels(flow[:SHOWN])
    about = {"command": f"python benchmarks/samplers.py --steps {chosen.steps} --draws {chosen.draws}", "machine": machine()}
    about |= {"pictures": pictures.name, "parameters": sum(each.numel() for each in network.parameters()), "seconds": seconds}
    about |= {"steps": chosen.steps, "draws": chosen.draws, "floor": floor}
    chosen.json.write_text(json.dumps({**about, "rows": rows, "shown": shown}) + "\n")


def pixels(x: Tensor) -> list[list[int]]:
    """N×4×8×8 in [-1, 1] as N lists of 256 numbers from 0 to 255, row by row."""
    grey = ((pixel_shuffle(x, 2).clamp(-1, 1) + 1) * 127.5).round().long()
    return grey.flatten(1).tolist()


if __name__ == "__main__":
    main()
