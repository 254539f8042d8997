"""One contender of `standing.py`: a process that builds one piece of work and repeats it when asked.

    python benchmarks/contender.py WORK WHO SIZE [BATCH]

Reads a number of repeats from each line of standard input; answers with the seconds of each, as JSON. The first line that
it prints says what was built. WHO: ours; default (diffusers and transformers as their users run them: float32, eager, their own
attention, AdamW); settings (theirs, with every setting that ours uses: bf16, channels-last, plain attention products, Muon
beside fused AdamW, freed memory kept). For the work "step", our whole training step of the denoiser, WHO is ours, or what is left
out of it, by the names of ABLATIONS.
"""

import contextlib
import dataclasses
import json
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from common import settings_of
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minildm import attention
from minildm.autoencoder import Autoencoder, autoencoder_loss
from minildm.ddpm import ddpm_loss
from minildm.engine.bench import stages
from minildm.engine.data import to_float
from minildm.engine.device import autocast, muon_precision
from minildm.engine.memory import keep_freed_memory
from minildm.engine.presets import Settings
from minildm.engine.stages import Stage
from minildm.ldm import LatentDiffusion
from minildm.muon import muon_and_adamw
from minildm.schedule import schedule_of
from minildm.text import TextEncoder
from minildm.tokenizer import Tokenizer
from minildm.unet import UNet

CPU = torch.device("cpu")
CAPTIONS = [f"a handwritten {word}" for word in "zero one two three four five six seven eight nine".split()]
Work = Callable[[], object]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Ours(Stage):
    """Our training loop's step, on random data."""

    def __init__(
        self, network: nn.Module, settings: Settings, batch: int, loss: Callable[[nn.Module], Tensor], muon: torch.dtype
    ) -> None:
        super().__init__("bench", network, batch, 10_000, batch, settings.lr, settings, muon)
        self.wanted = loss

    def loss(self, places: Tensor, generator: torch.Generator) -> Tensor:
        return self.wanted(self.network)


def training(
    network: nn.Module,
    settings: Settings,
    batch: int,
    loss: Callable[[nn.Module], Tensor],
    who: str,
    muon: torch.dtype = torch.float32,
) -> Work:
    """A training step: forward, backward, gradient clipped, Muon (in this precision) and AdamW; by default AdamW alone."""
    if who == "ours":
        stage, count = Ours(network, settings, batch, loss, muon), iter(range(10**9))
        return lambda: stage.step(next(count))
    if who == "settings":
        optimizers = muon_and_adamw(network, settings.lr, settings.weight_decay, muon)
    else:
        optimizers = [torch.optim.AdamW(network.parameters(), settings.lr, (0.9, 0.99), weight_decay=settings.weight_decay)]

    def step() -> Tensor:
        for optimizer in optimizers:
            optimizer.zero_grad()
        with theirs(settings, who):
            value = loss(network)
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        for optimizer in optimizers:
            optimizer.step()
        return value.detach()

    return step


@contextlib.contextmanager
def theirs(settings: Settings, who: str):
    """What surrounds their forward passes."""
    if who == "default":
        yield
    else:
        with autocast(settings, CPU), sdpa_kernel(SDPBackend.MATH):
            yield


def laid_out(network: nn.Module, who: str) -> nn.Module:
    return network.to(memory_format=torch.channels_last) if who == "settings" else network


def unet(settings: Settings, who: str, batch: int) -> tuple[nn.Module, Work]:
    """A training step of the U-Net: text states given."""
    config, schedule = settings.model, schedule_of(settings.model)
    side = config.image_size // config.autoencoder.factor
    z, noise = torch.randn(2, batch, config.unet.in_channels, side, side, generator=generator())
    context = torch.randn(batch, config.text.length, config.text.width, generator=generator())
    t = torch.randint(1, config.T, (batch,), generator=generator())
    if who == "ours":
        network, predict = UNet(config.unet), lambda network, x, t: network(x, t, context)
    else:
        network, predict = laid_out(reference_unet(config.unet), who), lambda network, x, t: network(x, t, context).sample

    def loss(network: nn.Module) -> Tensor:
        return ddpm_loss(lambda x, t: predict(network, x, t), z, t, noise, schedule, config.prediction).mean()

    return network, training(network, settings, batch, loss, who, muon_precision(settings, CPU))


def autoencoder(settings: Settings, who: str, batch: int) -> tuple[nn.Module, Work]:
    """A training step of the autoencoder."""
    config, size = settings.model.autoencoder, settings.model.image_size
    images = torch.rand(batch, config.image_channels, size, size, generator=generator()) * 2 - 1
    noise = torch.randn(batch, config.latent_channels, size // config.factor, size // config.factor, generator=generator())
    if who == "ours":
        network = Autoencoder(config)
        return network, training(
            network, settings, batch, lambda model: autoencoder_loss(model, images, noise, settings.kl_weight)[0], who
        )
    network = laid_out(reference_autoencoder(config), who)

    def loss(network: nn.Module) -> Tensor:
        q = network.encode(images).latent_dist
        mean, log_var = q.mean.float(), q.logvar.float()
        error = network.decode(mean + torch.exp(0.5 * log_var) * noise).sample.float() - images
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(dim=(1, 2, 3))
        return error.abs().mean() + error.square().mean() + settings.kl_weight * kl.mean() / images[0].numel()

    return network, training(network, settings, batch, loss, who)


def text(settings: Settings, who: str, batch: int) -> tuple[nn.Module, Work]:
    """A training step of the text encoder."""
    config = settings.model.text
    tokens = torch.randint(0, config.vocabulary, (batch, config.length), generator=generator())
    wanted = torch.randn(batch, config.length, config.width, generator=generator())
    if who == "ours":
        network, states = TextEncoder(config), lambda network: network(tokens)
    else:
        network, states = reference_text(config), lambda network: network(input_ids=tokens).last_hidden_state

    def loss(network: nn.Module) -> Tensor:
        return (states(network).float() - wanted).square().mean()

    return network, training(network, settings, batch, loss, who, muon_precision(settings, CPU))


def sampler(settings: Settings, who: str, batch: int) -> tuple[nn.Module, Work]:
    """Pictures from prompts: 20 steps of DPM-Solver++(2M), guidance 3, decoded."""
    config = settings.model
    tokenizer, prompts = Tokenizer.train(CAPTIONS, 530), (CAPTIONS * batch)[:batch]
    if who == "ours":
        model = LatentDiffusion(config, tokenizer).eval()

        def draw() -> Tensor:
            with autocast(settings, CPU):
                return model.generate(prompts, guidance=3.0, steps=20)

        return model, draw
    with tempfile.TemporaryDirectory() as folder:
        pipeline = reference_pipeline(config, tokenizer, Path(folder))
    for part in (pipeline.unet, pipeline.vae):
        laid_out(part, who)

    def draw() -> Tensor:
        with theirs(settings, who):
            options = {"height": config.image_size, "width": config.image_size, "output_type": "pt"}
            return pipeline(prompts, num_inference_steps=20, guidance_scale=3.0, **options).images

    return pipeline.unet, draw


def reference_unet(config):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=config.widths,
        layers_per_block=config.blocks,
        down_block_types=tuple("CrossAttnDownBlock2D" if here else "DownBlock2D" for here in config.attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(config.attention)),
        attention_head_dim=config.heads,
        transformer_layers_per_block=config.depth,
        cross_attention_dim=config.context_width,
        norm_num_groups=config.groups,
        use_linear_projection=config.linear_projection,
    )


def reference_autoencoder(config):
    from diffusers import AutoencoderKL

    levels = len(config.widths)
    return AutoencoderKL(
        in_channels=config.image_channels,
        out_channels=config.image_channels,
        latent_channels=config.latent_channels,
        block_out_channels=config.widths,
        layers_per_block=config.blocks,
        norm_num_groups=config.groups,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        mid_block_add_attention=config.middle_attention,
    )


def reference_text(config):
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.length,
        )
    )


def reference_pipeline(config, tokenizer: Tokenizer, folder: Path):
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    tokenizer.save(folder)
    pipeline = StableDiffusionPipeline(
        vae=reference_autoencoder(config.autoencoder),
        text_encoder=reference_text(config.text),
        tokenizer=CLIPTokenizer(
            str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=config.text.length, pad_token="<|endoftext|>"
        ),
        unet=reference_unet(config.unet),
        scheduler=DPMSolverMultistepScheduler(prediction_type="v_prediction", timestep_spacing="trailing"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def convolution(settings: Settings, who: str, batch: int) -> tuple[nn.Module, Work]:
    """A forward convolution, bf16, channels-last: the ceiling, to be asked in the same rounds as what is measured by it."""
    layer = nn.Conv2d(128, 128, 3, padding=1).bfloat16().to(memory_format=torch.channels_last).requires_grad_(False)
    x = torch.randn(128, 128, 4, 4, generator=generator()).bfloat16().to(memory_format=torch.channels_last)

    def repeat() -> None:
        for _ in range(100):
            layer(x)

    return layer, repeat


def step(settings: Settings, who: str, batch: int) -> tuple[nn.Module, Work]:
    """A training step of the denoiser, text encoder, cached latents and average included; `who` says what is left out."""
    if ABLATIONS[who] & {"bf16"}:
        settings = dataclasses.replace(settings, precision="float32")
    if ABLATIONS[who] & {"attention by level"}:
        unet = dataclasses.replace(settings.model.unet, attention=(True,) * len(settings.model.unet.widths))
        settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, unet=unet))
    if ABLATIONS[who] & {"plain attention"}:
        attention.SHORT = 0
    model, autoencoder, stage = stages(dataclasses.replace(settings, batch=batch))
    if ABLATIONS[who] & {"Muon in bf16"}:
        stage.optimizers[0].param_groups[0]["precision"] = torch.float32
    if ABLATIONS[who] & {"channels-last"}:
        model.to(memory_format=torch.contiguous_format)
    if ABLATIONS[who] & {"cached latents"}:
        images, cached = to_float(autoencoder.images), stage.loss

        def encoding_loss(places: Tensor, generator: torch.Generator) -> Tensor:
            with torch.no_grad():
                model.encode(images[places])
            return cached(places, generator)

        stage.loss = encoding_loss
    count = iter(range(10**9))
    return model, lambda: stage.step(next(count))


ABLATIONS: dict[str, set[str]] = {  # row: what is left out
    "ours": set(),
    "float32, Muon too": {"bf16"},
    "Muon in float32": {"Muon in bf16"},
    "fused attention": {"plain attention"},
    "NCHW": {"channels-last"},
    "attention on every level": {"attention by level"},
    "latents encoded anew": {"cached latents"},
    "memory given back": {"kept memory"},
    "all of these": {"bf16", "plain attention", "channels-last", "attention by level", "cached latents", "kept memory"},
}
WORKS = {"step": step, "convolution": convolution, "unet": unet, "autoencoder": autoencoder, "text": text, "sampler": sampler}


def main() -> None:
    work, who, size, *batch = sys.argv[1:]
    warnings.simplefilter("ignore")
    settings, count = settings_of(size)
    if who != "default" and not ABLATIONS.get(who, set()) & {"kept memory"}:
        keep_freed_memory()
    torch.manual_seed(0)
    count = int(batch[0]) if batch else count
    network, step = WORKS[work](settings, who, count)
    with FlopCounterMode(display=False) as flops:
        step()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    built = {"parameters": parameters, "batch": count, "gflop": flops.get_total_flops() / 1e9}
    print(json.dumps(built), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak": peak}), flush=True)


if __name__ == "__main__":
    main()
