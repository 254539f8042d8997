"""How far down? Autoencoders of three downsampling factors, with KL or codes, and a diffusion model on each one's latents.

    python benchmarks/compression.py [--only table weights long units] [--seeds 1] [--steps 700] [--json FILE]

Pictures are the engine's shapes in 16×16 pixels. Every autoencoder sees as many pictures; every diffusion model trains for as
many seconds of processor time, so that one with larger maps takes fewer steps. Distances are Fréchet distances between 500
pictures and 4000 real ones in the features of a judge that was trained for this. `weights` sweeps the KL's weight, `long`
trains one autoencoder for four times as many steps, `units` diffuses one set of latents in several units. Rows are stored as
they are done, and a run that was stopped goes on with what is missing: delete the file to measure everything anew.
"""

import argparse
import contextlib
import functools
import io
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import machine
from torch import Tensor, nn

from minildm.autoencoder import Autoencoder, autoencoder_loss, latent_scale, train_autoencoder, vq_autoencoder_loss
from minildm.config import AutoencoderConfig, UNetConfig
from minildm.ddpm import denoiser, train_ddpm
from minildm.engine import shapes
from minildm.engine.data import to_float
from minildm.engine.judges import Judge, roughen, train_judge, verdicts
from minildm.gaussian import Gaussian
from minildm.metrics import frechet_distance
from minildm.quantise import Quantizer, perplexity
from minildm.samplers import dpmpp, time_grid
from minildm.schedule import NoiseSchedule
from minildm.unet import UNet

WIDTHS = {2: (16, 32), 4: (16, 32, 32), 8: (16, 32, 32, 32)}  # by factor: about the same time for a step
KL_WEIGHT, CODES, SECONDS, CHANNELS = 1e-3, 256, 12.0, 4
WEIGHTS = (1e-5, 1e-3, 1e-2, 1e-1, 1.0)
UNITS, UNIT_STEPS = (0.2, 1.0, None, 5.49, 20.0), (200, 1500)  # deviations of the latents; None is the encoder's own
PARTS = ["table", "weights", "long", "units"]
SCHEDULE = NoiseSchedule.cosine(1000)


def scenes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = shapes.sample_scenes(count, shapes.SEEN, generator)
    return to_float(shapes.render(drawn, generator, 16)), drawn


def a_judge(images: Tensor, attributes: Tensor) -> Judge:
    torch.manual_seed(1)
    judge, generator = Judge(3, 16, tuple(shapes.ATTRIBUTES.values()), width=16), torch.Generator().manual_seed(6)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        places = torch.randint(len(images), (64,), generator=generator)
        return roughen(images[places], generator, 0.5, 0.1), attributes[places]

    with contextlib.redirect_stderr(io.StringIO()):
        train_judge(judge, batch, 300)
    return judge


def trained(factor: int, images: Tensor, steps: int, seed: int, kl_weight: float | None) -> tuple[Autoencoder, Quantizer | None]:
    """An autoencoder; with a codebook where no KL weight is given, whose unused codes are put among the data every 50 steps."""
    torch.manual_seed(seed)
    model = Autoencoder(AutoencoderConfig(latent_channels=CHANNELS, widths=WIDTHS[factor], groups=1, middle_attention=False))
    generator, count = torch.Generator().manual_seed(seed), itertools.count()
    if kl_weight is not None:
        train_autoencoder(model, images, steps, generator, lambda x, noise: autoencoder_loss(model, x, noise, kl_weight)[0])
        return model, None
    quantizer = Quantizer(CODES, CHANNELS)

    def loss(x: Tensor, noise: Tensor) -> Tensor:
        if next(count) % 50 == 0:
            quantizer.revive(model.encode(x).mean, generator)
        return vq_autoencoder_loss(model, quantizer, x)[0]

    train_autoencoder(nn.ModuleList([model, quantizer]), images, steps, generator, loss)
    return model, quantizer.eval()


def psnr(x: Tensor, y: Tensor) -> float:
    """In decibels, the mean over pictures, whose values span 2."""
    return (10 * torch.log10(4 / (x - y).square().flatten(1).mean(1))).mean().item()


@torch.no_grad()
def reconstructed(model: Autoencoder, quantizer: Quantizer | None, x: Tensor) -> tuple[Tensor, dict]:
    q = model.encode(x)
    if quantizer is None:
        noise = torch.randn(q.mean.shape, generator=torch.Generator().manual_seed(0))
        return model.decode(q.sample(noise)), {"nats": q.kl().mean().item(), "raw deviation": (1 / latent_scale(q)).item()}
    z, codes, _ = quantizer(q.mean)
    counts = codes.flatten().bincount(minlength=CODES)
    return model.decode(z), {"perplexity": perplexity(counts).item(), "used": int((counts > 0).sum())}


def denoising_unet(channels: int, seed: int) -> UNet:
    torch.manual_seed(seed)
    plain = {"attention": (False, False), "middle_attention": False, "context_width": None}
    return UNet(UNetConfig(in_channels=channels, out_channels=channels, widths=(32, 64), groups=2, **plain))


def drawn(latents: Tensor, seconds: float, seed: int) -> tuple[Tensor, int, float]:
    """Latents of a diffusion model that trained so long; how many steps that was; seconds of one."""
    network = denoising_unet(latents.shape[1], seed)
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    start = time.process_time()
    train_ddpm(network, latents, SCHEDULE, "v", 10, torch.Generator().manual_seed(seed))
    each = (time.process_time() - start) / 10
    network.load_state_dict(kept)
    steps = max(20, round(seconds / each))
    return drawn_after(network, latents, steps, seed), steps, each


def drawn_after(network: UNet, latents: Tensor, steps: int, seed: int, count: int = 500) -> Tensor:
    """Latents of a diffusion model that trained for so many steps."""
    averaged, _ = train_ddpm(network, latents, SCHEDULE, "v", steps, torch.Generator().manual_seed(seed))
    noise = torch.randn(count, *latents.shape[1:], generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        *_, (_, z, _) = dpmpp(denoiser(averaged, SCHEDULE, "v"), SCHEDULE, noise, time_grid(1000, 20))
    return z


class Table:
    def __init__(self, steps: int) -> None:
        self.steps = steps
        (self.train, attributes), (self.test, self.asked) = scenes(8000, 0), scenes(2000, 1)
        self.judge = a_judge(self.train, attributes)
        self.real = self.features(self.train[:4000])
        self.floor = self.distance(self.test[:500])
        self.judged_real = verdicts(self.judge, self.test, self.asked).all(1).float().mean().item()

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        return self.judge.features(x.clamp(-1, 1))

    def distance(self, x: Tensor) -> float:
        return frechet_distance(self.features(x[:500]), self.real)

    def reconstruction(self, model: Autoencoder, quantizer: Quantizer | None) -> dict:
        x, numbers = reconstructed(model, quantizer, self.test)
        found = {
            "L1": (x - self.test).abs().mean().item(),
            "PSNR": psnr(x, self.test),
            "distance of reconstructions": self.distance(x),
        }
        return found | {"judge": verdicts(self.judge, x, self.asked).all(1).float().mean().item()} | numbers

    def row(self, factor: int, codes: bool, seed: int) -> dict:
        start = time.process_time()
        model, quantizer = trained(factor, self.train, self.steps, seed, None if codes else KL_WEIGHT)
        each = (time.process_time() - start) / self.steps
        found = self.reconstruction(model, quantizer)
        latents = self.latents(model, codes)
        z, steps, diffusion_each = drawn(latents, SECONDS, seed)
        with torch.no_grad():
            z = quantizer(z / model.scale)[0] * model.scale if codes else z
            pictures = model.decode(z)
        found |= {"distance": self.distance(pictures), "diffusion steps": steps, "scale": model.scale.item()}
        numbers = latents[0].numel()
        return found | {"seconds of a step": [each, diffusion_each], "numbers": numbers}

    @torch.no_grad()
    def latents(self, model: Autoencoder, codes: bool) -> Tensor:
        """Draws of the latents of all training pictures, in units of their deviation; the model gets that scale."""
        q = model.encode(self.train)
        still = torch.full_like(q.mean, -torch.inf)
        q = Gaussian(q.mean, still) if codes else q  # codes are diffused before they are quantised, without noise
        model.fit_scale(q)
        latents = Gaussian(q.mean * model.scale, q.log_var + 2 * torch.log(model.scale))
        return latents.sample(torch.randn(q.mean.shape, generator=torch.Generator().manual_seed(3)))

    @functools.cached_property
    def encoded(self) -> tuple[Autoencoder, Tensor]:
        """The autoencoder of the row f = 4, KL, and its latents."""
        model, _ = trained(4, self.train, self.steps, 1, KL_WEIGHT)
        return model, self.latents(model, codes=False)

    def unit(self, unit: float | None, steps: int, seed: int) -> dict:
        """The same latents with another deviation (None: the encoder's own), diffused for so many steps."""
        model, latents = self.encoded
        unit = 1 / model.scale.item() if unit is None else unit
        z = drawn_after(denoising_unet(latents.shape[1], seed), unit * latents, steps, seed) / unit
        with torch.no_grad():
            return {"unit": unit, "steps": steps, "distance": self.distance(model.decode(z)), "deviation": z.std().item()}

    def pixels(self, seed: int) -> dict:
        x, steps, each = drawn(self.train, SECONDS, seed)
        return {"distance": self.distance(x), "diffusion steps": steps, "seconds of a step": [None, each], "numbers": 768}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", choices=PARTS, nargs="*", default=PARTS)
    options.add_argument("--seeds", type=int, nargs="*", default=[1])
    options.add_argument("--steps", type=int, default=700)
    options.add_argument("--json", type=Path, default=Path("benchmarks/compression.json"))
    chosen = options.parse_args()
    found = json.loads(chosen.json.read_text()) if chosen.json.exists() else {}
    table = Table(chosen.steps)
    for part in chosen.only:
        found.setdefault(part, {})
        found.setdefault("commands", {})[part] = f"python benchmarks/compression.py --only {part} --steps {chosen.steps}"
        found.setdefault("steps", {})[part] = chosen.steps
    found["machine"] = machine()
    found |= {"floor": table.floor, "judge of real pictures": table.judged_real, "seconds of diffusion": SECONDS}

    def store(part: str, name: str, seed: int, row: Callable[[], dict]) -> None:
        if str(seed) in found[part].setdefault(name, {}):
            return  # from an earlier run that was stopped
        found[part][name][str(seed)] = row()
        print(part, name, seed, found[part][name][str(seed)], flush=True)
        chosen.json.write_text(json.dumps(found, ensure_ascii=False) + "\n")

    def rebuilt(steps: int, seed: int, weight: float) -> dict:
        return table.reconstruction(*trained(4, table.train, steps, seed, weight))

    for seed in chosen.seeds:
        if "table" in chosen.only:
            for factor, codes in itertools.product((4, 2, 8), (False, True)):
                name = f"f = {factor}, {'codes' if codes else 'KL'}"
                store("table", name, seed, functools.partial(table.row, factor, codes, seed))
            store("table", "pixels", seed, functools.partial(table.pixels, seed))
        if "units" in chosen.only:
            for steps, unit in itertools.product(UNIT_STEPS, UNITS):
                store("units", f"{unit}, {steps} steps", seed, functools.partial(table.unit, unit, steps, seed))
    if "weights" in chosen.only:
        for weight in WEIGHTS:
            store("weights", f"{weight:g}", 0, functools.partial(rebuilt, chosen.steps, 0, weight))
    if "long" in chosen.only:
        store("long", "f = 4, KL", 0, functools.partial(rebuilt, 4 * chosen.steps, 0, KL_WEIGHT))


if __name__ == "__main__":
    main()
