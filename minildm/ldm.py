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
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minildm import config as configs
from minildm.autoencoder import Autoencoder
from minildm.config import LatentDiffusionConfig
from minildm.ddpm import Denoise, ddpm_loss, denoiser, spread_times
from minildm.gaussian import Gaussian
from minildm.guidance import classifier_free_batched
from minildm.samplers import SAMPLERS, time_grid
from minildm.schedule import NoiseSchedule
from minildm.text import TextEncoder, Tokenizer
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
        schedule = getattr(NoiseSchedule, config.schedule)(config.T)
        self.schedule = schedule.rescaled_to_zero_snr() if config.zero_terminal_snr else schedule

    def encode(self, images: Tensor) -> Gaussian:
        """q(z | image) over scaled latents, for images N×C×H×W in [-1, 1]."""
        return self.autoencoder.encode(images)

    def tokens(self, prompts: list[str]) -> Tensor:
        """Prompts as tokens N×L. Raises ValueError while there is no tokenizer."""
        if self.tokenizer is None:
            raise ValueError("this model has no tokenizer yet: set model.tokenizer = Tokenizer.train(captions, size)")
        return self.tokenizer.batch(prompts, self.config.text.length)

    def loss(
        self,
        latents: Tensor,
        tokens: Tensor,
        *,
        generator: torch.Generator,
        time_power: float = 1.0,
        min_snr: float | None = None,
    ) -> Tensor:
        """The denoising loss on one batch: each latent at a random time, with random noise, under its caption.

        Args:
            latents: z_0, scaled, N×latent_channels×h×w.
            tokens: the captions, N×L, some of them replaced by the empty prompt's for classifier-free guidance.
            generator: on the CPU; decides times and noise.
            time_power: below 1, noisy times are drawn more often (see `spread_times`).
            min_snr: γ of the min-SNR weights, or None for L_simple.

        Returns: a scalar, the mean over the batch.
        """
        t = spread_times(len(latents), self.schedule.T, generator, time_power)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        network = functools.partial(self.unet, context=self.text(tokens))
        return ddpm_loss(network, latents, t.to(latents.device), noise, self.schedule, self.config.prediction, min_snr).mean()

    @torch.no_grad()
    def generate(
        self, prompts: list[str], *, guidance: float = 3.0, steps: int = 20, sampler: str = "dpmpp", seed: int = 0
    ) -> Tensor:
        """Draw one image for each prompt.

        Args:
            prompts: texts; "" is unconditional.
            guidance: w; 1 is plain conditional sampling.
            steps: of the sampler, 1..T.
            sampler: ddpm, ddim, euler, heun or dpmpp.
            seed: image i is drawn from the noise of seed + i, so it does not depend on what else is in the batch.

        Returns: N×C×H×W in [-1, 1].

        Raises:
            ValueError: no prompt, an unknown sampler, a number of steps outside 1..T, or a guidance that is no finite
                number ≥ 0.
        """
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler {sampler!r} is unknown: choose one of {', '.join(SAMPLERS)}")
        if not (math.isfinite(guidance) and guidance >= 0):
            raise ValueError(f"guidance={guidance} must be a finite number, at least 0 (1 is plain conditional sampling)")
        if not prompts:
            raise ValueError('no prompt was given: pass at least one, "" for an unconditional image')
        times = time_grid(self.schedule.T, steps)
        device = next(self.parameters()).device
        generators = [torch.Generator().manual_seed(seed + place) for place in range(len(prompts))]

        def draw(like: Tensor) -> Tensor:
            """One draw per image, each from its own generator."""
            return torch.stack([torch.randn(like.shape[1:], generator=generator) for generator in generators]).to(like)

        side = self.config.image_size // self.config.autoencoder.factor
        noise = draw(torch.empty(len(prompts), self.config.unet.in_channels, side, side, device=device))
        options = {"draw": draw} if sampler == "ddpm" else {}
        *_, (_, z, _) = SAMPLERS[sampler](self.denoiser(prompts, guidance), self.schedule, noise, times, **options)
        return self.autoencoder.decode(z).clamp(-1, 1)

    def denoiser(self, prompts: list[str], guidance: float) -> Denoise:
        """(z_t, t) → ẑ_0 under these prompts. Text is encoded, and its keys and values are computed, only once."""
        device = next(self.parameters()).device
        texts = prompts if guidance == 1 else prompts + [""] * len(prompts)
        keys_values = self.unet.keys_values(self.text(self.tokens(texts).to(device)))
        denoise = denoiser(functools.partial(self.unet, context=keys_values), self.schedule, self.config.prediction)
        return denoise if guidance == 1 else classifier_free_batched(denoise, guidance)

    def save(self, folder: Path | str) -> None:
        """Write config.json, model.safetensors, vocab.json and merges.txt into the folder, making it if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        document = {"layout": LAYOUT, "model": configs.to_dict(self.config)}
        (folder / "config.json").write_text(json.dumps(document, indent=1))
        if self.tokenizer is not None:
            self.tokenizer.save(folder)
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu") -> "LatentDiffusion":
        """Read what `save` wrote, or any run folder. Weights come from safetensors alone; nothing is unpickled.

        Raises:
            ValueError: a folder without a model, of a newer layout, or with weights of another shape or format.
        """
        folder = Path(folder)
        document = read_json(folder / "config.json")
        if document.get("layout") != LAYOUT:
            raise ValueError(
                f"{folder / 'config.json'}: layout {document.get('layout')!r}, this minildm reads {LAYOUT}: update it"
            )
        model = cls(configs.from_dict(LatentDiffusionConfig, document.get("model")))
        if (folder / "vocab.json").exists():
            model.tokenizer = Tokenizer.load(folder)
        load_weights(model, folder / "model.safetensors")
        return model.to(device).eval()


def read_json(path: Path) -> dict:
    """A JSON object from a file. Raises ValueError when it is missing or broken."""
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: is {path.parent} a run folder?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no readable JSON: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path} should hold a JSON object, not {type(document).__name__}")
    return document


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill the module from a safetensors file. Raises ValueError when the file is missing, no safetensors, or does not fit."""
    if not path.exists():
        raise ValueError(f"{path} does not exist: training may not have reached its end; resume it with --resume")
    try:
        weights = load_file(path)
    except Exception as error:  # safetensors raises its own type for each kind of damage
        raise ValueError(f"{path} is no whole safetensors file ({error}); other formats are refused") from None
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its config.json: {str(error).splitlines()[1].strip()}") from None
