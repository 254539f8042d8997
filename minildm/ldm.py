"""The complete text-to-image model (chapter 16).

    caption ── tokenizer ── tokens N×L ── text encoder ── states N×L×D ─────────────┐
                                                                         keys and values of cross-attention
    image N×3×H×W ── autoencoder.encode ── z_0 N×4×H/8×W/8 ── q_sample ── z_t ── U-Net ── v ── loss    (training)
                                                      noise z_T ── sampler ⇄ U-Net ── z_0 ── decode ── image (sampling)

(The numbers 4 and 8 are Stable Diffusion's; the configuration has its own.)
Source: Rombach et al. 2022 (arXiv:2112.10752), Eq. 3 and figure 3.
"""

import functools
import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from minildm import config as configs
from minildm.autoencoder import Autoencoder
from minildm.config import LatentDiffusionConfig
from minildm.ddpm import Denoise, Network, ddpm_loss, denoiser, spread_times
from minildm.files import read_json, write_text, written_whole
from minildm.gaussian import Gaussian
from minildm.guidance import classifier_free_batched, guided_below
from minildm.samplers import SAMPLERS, time_grid
from minildm.schedule import schedule_of
from minildm.tensors import Tensors, fill, save_tensors, without_memory
from minildm.text import TextEncoder
from minildm.tokenizer import Tokenizer
from minildm.unet import UNet

LAYOUT = 1  # of a saved folder; raised when an older reader could not understand it


class LatentDiffusion(nn.Module):
    """Autoencoder, text encoder, denoiser and tokenizer, and the two things they do together: learn and generate.

    Args:
        config: every size.
        tokenizer: words to numbers; may be set later, but before text is used.

    Attributes:
        autoencoder, text, unet: the three networks.
        schedule: how noise grows.
        tokenizer: as given.
    """

    def __init__(self, config: LatentDiffusionConfig, tokenizer: Tokenizer | None = None) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.autoencoder, self.text, self.unet = Autoencoder(config.autoencoder), TextEncoder(config.text), UNet(config.unet)
        self.schedule = schedule_of(config)

    def encode(self, images: Tensor) -> Gaussian:
        """q(z | image) over scaled latents, for images N×C×H×W in [-1, 1]."""
        return self.autoencoder.encode(images)

    def tokens(self, prompts: list[str]) -> Tensor:
        """Prompts as tokens N×L. Raises ValueError while there is no tokenizer."""
        if self.tokenizer is None:
            raise ValueError("this model has no tokenizer: restore vocab.json, or give it Tokenizer.train(captions, size)")
        return self.tokenizer.batch(prompts, self.config.text.length, self.config.text.pad)

    def loss(
        self,
        latents: Tensor,
        tokens: Tensor,
        *,
        generator: torch.Generator,
        time_power: float = 1.0,
        min_snr: float | None = None,
    ) -> Tensor:
        """L_LDM on one batch, Eq. (16.7): each latent at a random time, with random noise, under its caption.

        Args:
            latents: z_0, scaled, N×latent_channels×h×w.
            tokens: the captions, N×L, some of them replaced by the empty prompt's for classifier-free guidance.
            generator: on the CPU; decides times and noise.
            time_power: below 1, noisy times are drawn more often (see `spread_times`).
            min_snr: γ of the min-SNR weights, or None for L_simple.

        Returns: a scalar, the mean over the batch.

        Source: Rombach et al. 2022 (arXiv:2112.10752), Eq. 3.
        """
        t = spread_times(len(latents), self.schedule.T, generator, time_power)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        network = functools.partial(self.unet, context=self.text(tokens))
        return ddpm_loss(network, latents, t, noise, self.schedule, self.config.prediction, min_snr).mean()

    @torch.no_grad()
    def generate(
        self,
        prompts: list[str],
        *,
        guidance: float = 3.0,
        guidance_high: float = 1.0,
        steps: int = 20,
        sampler: str = "dpmpp",
        seed: int = 0,
        batch: int = 100,
        condition: Tensor | None = None,
    ) -> Tensor:
        """Draw one image for each prompt, Eq. (16.11): the decoder's picture of the latent at which the sampler ends.

        Args:
            prompts: texts; "" is unconditional.
            guidance: w; 1 is plain conditional sampling.
            guidance_high: the noisiest time at which to guide, as a share of T; above it sampling is plain (see `guided_below`).
            steps: of the sampler, 1..T.
            sampler: ddpm, ddim, euler, heun or dpmpp.
            seed: image i is drawn from the noise of seed + i, whatever else is in the batch. (PyTorch's generator on the CPU,
                which this uses, looks at the seed's last 32 bits only.)
            batch: how many images are drawn at a time, which bounds the memory.
            condition: for a U-Net that reads more channels than latents have, one for each prompt, N×(the rest)×h×w.

        Returns: N×C×H×W in [-1, 1].

        Raises:
            ValueError: no prompt, an unknown sampler, a number of steps outside 1..T, a batch below 1, a seed outside 0..2⁶³ − 1,
                a guidance that is no finite number ≥ 0, a guidance_high outside [0, 1], or a condition of another shape.
        """
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler {sampler!r} is unknown: choose one of {', '.join(SAMPLERS)}")
        if not (math.isfinite(guidance) and guidance >= 0):
            raise ValueError(f"guidance={guidance} must be a finite number, at least 0 (1 is plain conditional sampling)")
        if not 0 <= guidance_high <= 1:
            raise ValueError(f"guidance_high={guidance_high} must lie in [0, 1], a share of T; 1 guides everywhere")
        if not prompts:
            raise ValueError('no prompt was given: pass at least one, "" for an unconditional image')
        if batch < 1:
            raise ValueError(f"batch={batch} must be at least 1")
        if not 0 <= seed < 2**63 - len(prompts):
            raise ValueError(f"seed={seed} must be at least 0 and below 2⁶³ − {len(prompts)}, the number of prompts")
        wanted = (len(prompts), *self.condition_shape)
        given = (len(prompts), 0, *wanted[2:]) if condition is None else tuple(condition.shape)
        if given != wanted:
            raise ValueError(f"condition has shape {given}, and beside the latents this U-Net reads {wanted}")
        times, parts = self.times(steps, sampler), []
        for first in range(0, len(prompts), batch):
            part = slice(first, first + batch)
            denoise = self.denoiser(prompts[part], guidance, None if condition is None else condition[part], guidance_high)
            parts.append(self._draw(denoise, len(prompts[part]), times, sampler, seed + first))
        images = torch.cat(parts)
        if not images.isfinite().all():
            raise ValueError(f"the images are no finite numbers: lower the guidance, {guidance:g}, or restore the weights")
        return images

    def times(self, steps: int, sampler: str) -> Tensor:
        """Where a sampler stands, by `config.grid`. As in diffusers only DDIM can end elsewhere than at clean data, and
        DPM-Solver++ spares the lowest time unless trailing: over the long step to it, it would extrapolate too far."""
        grid = self.config.grid
        end, spare = grid.end if sampler == "ddim" else 0, sampler == "dpmpp" and grid.spacing != "trailing"
        return time_grid(self.schedule.T, steps, grid.spacing, grid.offset, end, spare)

    @property
    def condition_shape(self) -> tuple[int, int, int]:
        """Channels (0 for a plain text-to-image model), height and width of the conditions that the U-Net reads beside z_t."""
        side = self.config.image_size // self.config.autoencoder.factor
        return self.config.unet.in_channels - self.config.unet.out_channels, side, side

    def _draw(self, denoise: Denoise, count: int, times: Tensor, sampler: str, seed: int) -> Tensor:
        """One batch of `generate`."""
        generators = [torch.Generator().manual_seed(seed + place) for place in range(count)]

        def draw(like: Tensor) -> Tensor:
            """One draw per image, each from its own generator."""
            return torch.stack([torch.randn(like.shape[1:], generator=generator) for generator in generators]).to(like)

        device = next(self.parameters()).device
        noise = draw(torch.empty(count, self.config.unet.out_channels, *self.condition_shape[1:], device=device))
        options = {"draw": draw} if sampler == "ddpm" else {}
        *_, (_, z, _) = SAMPLERS[sampler](denoise, self.schedule, noise, times, **options)
        return self.autoencoder.decode(z).float().clamp(-1, 1)

    def denoiser(self, prompts: list[str], guidance: float, condition: Tensor | None = None, high: float = 1.0) -> Denoise:
        """(z_t, t) → ẑ_0 under these prompts. Keys and values of the text are computed before the first step, not in each.

        condition: of `condition_shape` for each prompt, if the U-Net reads one.   high: `guidance_high` of `generate`.
        """
        device = next(self.parameters()).device
        texts = prompts if guidance == 1 else prompts + [""] * len(prompts)
        keys_values = self.unet.keys_values(self.text(self.tokens(texts).to(device)))
        network = functools.partial(self.unet, context=keys_values)
        if condition is not None:
            network = beside(network, condition if guidance == 1 else torch.cat([condition, condition]))
        denoise = denoiser(network, self.schedule, self.config.prediction)
        if guidance == 1:
            return denoise
        guided = classifier_free_batched(denoise, guidance)
        return guided if high == 1 else guided_below(guided, self.denoiser(prompts, 1.0, condition), high * self.schedule.T)

    def save(self, folder: Path | str) -> None:
        """Write vocab.json, merges.txt, model.safetensors and config.json into the folder, making it if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.tokenizer is not None:
            self.tokenizer.save(folder)
        self.save_weights(folder / "model.safetensors")
        document = {"layout": LAYOUT, "model": configs.to_dict(self.config)}
        write_text(folder / "config.json", json.dumps(document, indent=1))

    def save_weights(self, path: Path) -> None:
        """Write the weights alone, all three networks' in one safetensors file."""
        with written_whole(path) as aside:
            save_tensors(self.state_dict(), aside)

    @classmethod
    def load(cls, folder: Path | str, device: str | torch.device = "cpu") -> "LatentDiffusion":
        """Read what `save` wrote, or any run folder. Weights come from safetensors alone; nothing is unpickled.

        Raises:
            ValueError: a folder without a model, of a newer layout, or with weights of another shape or format.
        """
        folder, weights = Path(folder), Path(folder) / "model.safetensors"
        config = model_config(read_json(folder / "config.json"), folder)
        if not weights.exists():
            raise ValueError(f"{weights} does not exist: training did not reach its end; finish it with --resume")
        with without_memory():  # as yet: the file, not the configuration, decides how much is used
            model = cls(config)
        fill(model, Tensors(weights), weights)
        if (folder / "vocab.json").exists():
            model.tokenizer = Tokenizer.load(folder)
            highest = max(model.tokenizer.vocabulary.values())
            if highest >= config.text.vocabulary:
                raise ValueError(
                    f"{folder / 'vocab.json'} has token {highest}, the text encoder knows {config.text.vocabulary}: restore it"
                )
        return model.to(device).eval()


def beside(network: Network, image: Tensor) -> Network:
    """The network with an image as further channels of its input: (x_t, t) → network([x_t, image], t)."""
    return lambda x_t, t: network(torch.cat([x_t, image.to(x_t)], 1), t)


def model_config(document: dict, folder: Path) -> LatentDiffusionConfig:
    """The model's part of a config.json. Raises ValueError for another layout or broken sizes."""
    path, layout = folder / "config.json", document.get("layout")
    if type(layout) is int and layout > LAYOUT:
        raise ValueError(f"{path} has layout {layout}, this minildm reads {LAYOUT}: update minildm")
    if layout != LAYOUT:
        raise ValueError(f"{path} has layout {layout!r}, not {LAYOUT}: is {folder} a run folder?")
    try:
        return configs.from_dict(LatentDiffusionConfig, document.get("model"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
