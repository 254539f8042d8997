"""Four families of generative models on one ring of Gaussians, each with the same budget: what each gives, measured.

    python benchmarks/families.py [--seeds 3] [--steps 5000] [--json benchmarks/families.json]

The budget: `--steps` steps of a batch of 256 drawn afresh, and 33,000 to 37,000 parameters. (The GAN takes a step of each of its
two networks every time.) Chapter 02 shows the table and trains the flow's first row again.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import machine
from torch import Tensor, nn

from minildm.ddpm import ancestral, ddpm_loss, denoiser, spread_times
from minildm.families import GAN, Flow, Ring, mlp, mode_shares, modes_covered, train_flow, train_gan
from minildm.gaussian import Gaussian, per_example
from minildm.posterior import bound_terms, posterior
from minildm.samplers import ddim, time_grid
from minildm.schedule import NoiseSchedule
from minildm.vae import VAE, importance_weighted, vae_loss, vae_terms

RING, BATCH, JUDGED, TESTED, DRAWN = Ring(), 256, 20000, 5000, 500
SCHEDULE = NoiseSchedule.linear(100, 1e-3, 0.2)  # T = 100: ᾱ_100 is 2e-5
IMPORTANCE_DRAWS = 2000


def decaying(parameters, rate: float, steps: int) -> Callable[[int, Tensor], None]:
    """Adam whose learning rate falls to 0 along a straight line, as in the chapter's two training loops."""
    optimiser = torch.optim.Adam(parameters, rate)

    def update(step: int, loss: Tensor) -> None:
        optimiser.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return update


class Denoiser(nn.Module):
    """ε̂(x_t, t): a plain network over x_t and a few waves of the log-SNR."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.network = mlp(2 + 8, width, 2, hidden=3)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        log_snr = SCHEDULE.log_snr(t).to(x_t)[:, None]
        waves = [f(log_snr * 2.0**k) for k in range(-2, 2) for f in (torch.sin, torch.cos)]
        return self.network(torch.cat([x_t, *waves], 1))


def diffusion_bound(network: Denoiser, x0: Tensor) -> Tensor:
    """A draw of the variational bound on −log p(x_0) for each example, in nats, with the variance β_t at every step back."""
    denoise = denoiser(network, SCHEDULE, "epsilon")

    def reverse(x_t: Tensor, t: Tensor) -> Gaussian:
        mean = posterior(SCHEDULE, x_t, denoise(x_t, t), t).mean
        return Gaussian(mean, per_example(SCHEDULE.beta[t].log(), mean).expand_as(mean))

    return bound_terms(SCHEDULE, reverse, x0).sum(1)


def gan_row(steps: int) -> dict:
    gan = GAN(width=90)
    train_gan(gan, RING.sample, steps)
    return {"model": gan, "sample": gan.sample, "calls": 1, "latent": gan.latent, "likelihood": "none"}


def flow_row(steps: int) -> dict:
    flow = Flow()
    train_flow(flow, RING.sample, steps)
    with torch.no_grad():
        nll = -flow.log_prob(RING.sample(JUDGED))
    return {"model": flow, "sample": flow.sample, "calls": 1, "latent": 2, "likelihood": "exact", "nll": nll}


def vae_row(steps: int) -> dict:
    """The likelihood's variance is one number, and is learned too; from 1, the data's own, no latent would come alive."""
    vae, log_var = VAE(mlp(2, 90, 4, hidden=3), mlp(2, 90, 2, hidden=3)), nn.Parameter(torch.tensor(-3.0))

    def log_likelihood(x: Tensor, mean: Tensor) -> Tensor:
        return Gaussian(mean, log_var.expand_as(mean)).log_prob(x)

    update = decaying([*vae.parameters(), log_var], 2e-3, steps)
    for step in range(steps):
        x = RING.sample(BATCH)
        update(step, vae_loss(vae, x, torch.randn(BATCH, 2), log_likelihood))

    def sample(count: int) -> Tensor:
        mean = vae.decode(torch.randn(count, 2))
        return Gaussian(mean, log_var.expand_as(mean)).sample()

    with torch.no_grad():
        x = RING.sample(TESTED)
        reconstruction, kl = vae_terms(vae, x, torch.randn(TESTED, 2), log_likelihood)
        noise = torch.randn(IMPORTANCE_DRAWS, TESTED, 2)
        pairs = zip(x.split(100), noise.split(100, 1), strict=True)
        tighter = torch.cat([importance_weighted(vae, part, its, log_likelihood) for part, its in pairs])
    return {
        "model": vae,
        "sample": sample,
        "calls": 1,
        "latent": 2,
        "likelihood": "bound",
        "bound": kl - reconstruction,
        "nll": -tighter,
        "variance": log_var.exp().item(),
    }


def diffusion_row(steps: int) -> dict:
    network, generator = Denoiser(125), torch.Generator().manual_seed(0)
    update = decaying(network.parameters(), 2e-3, steps)
    for step in range(steps):
        x0, t = RING.sample(BATCH), spread_times(BATCH, SCHEDULE.T, generator)
        update(step, ddpm_loss(network, x0, t, torch.randn_like(x0), SCHEDULE, "epsilon").mean())
    denoise = denoiser(network, SCHEDULE, "epsilon")

    def drawn(sampler: Callable, calls: int) -> Callable[[int], Tensor]:
        return lambda count: list(sampler(denoise, SCHEDULE, torch.randn(count, 2), time_grid(SCHEDULE.T, calls)))[-1][1]

    with torch.no_grad():
        bound = diffusion_bound(network, RING.sample(TESTED))
    row = {"model": network, "sample": drawn(ancestral, SCHEDULE.T), "calls": SCHEDULE.T, "latent": 2, "likelihood": "bound"}
    return {**row, "bound": bound, "fewer": drawn(ddim, 10)}


def judged(sample: Callable[[int], Tensor]) -> dict:
    """Diversity and speed of one way to sample; the seconds are the least of five."""
    x = sample(JUDGED)
    shares, seconds = mode_shares(x, RING), []
    for _ in range(5):
        start = time.perf_counter()
        sample(1000)
        seconds.append(time.perf_counter() - start)
    return {
        "modes": modes_covered(shares),
        "near": shares.sum().item(),
        "points_per_second": 1000 / min(seconds),
        "points": x[:DRAWN],
    }


def row_of(train: Callable[[int], dict], steps: int, seed: int) -> dict:
    torch.manual_seed(seed)
    start = time.perf_counter()
    found = train(steps)
    seconds, fewer = time.perf_counter() - start, found.pop("fewer", None)
    with torch.no_grad():
        sample = found.pop("sample")
        found.update(judged(sample))
        if fewer:
            found["fewer"] = {**judged(fewer), "calls": 10}
            del found["fewer"]["points"]
    found["parameters"] = sum(parameter.numel() for parameter in found.pop("model").parameters())
    for name in ("nll", "bound"):
        if name in found:
            values = found[name].detach().double()
            found[name], found[f"{name}_error"] = values.mean().item(), (values.std() / math.sqrt(len(values))).item()
    found["points"] = [[round(value, 2) for value in point] for point in found["points"].tolist()]
    return {**found, "seed": seed, "seconds": seconds}


ROWS = {"GAN": gan_row, "flow": flow_row, "VAE": vae_row, "diffusion": diffusion_row}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=5000)
    options.add_argument("--only", choices=ROWS, nargs="*", default=list(ROWS))
    options.add_argument("--json", type=Path, default=Path("benchmarks/families.json"))
    chosen, rows = options.parse_args(), {}
    for name in chosen.only:
        rows[name] = [row_of(ROWS[name], chosen.steps, seed) for seed in range(chosen.seeds)]
        for row in rows[name][1:]:
            del row["points"]  # one picture of each family is enough
        for row in rows[name]:
            print(
                name,
                {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items() if key != "points"},
                flush=True,
            )
    command = f"python benchmarks/families.py --seeds {chosen.seeds} --steps {chosen.steps}"
    about = {"command": command, "machine": machine(), "steps": chosen.steps, "batch": BATCH, "entropy": RING.entropy()}
    chosen.json.write_text(json.dumps({**about, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
