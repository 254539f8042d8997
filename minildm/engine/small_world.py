"""A world small enough to learn in a minute: one large shape, three kinds, four colours, four places, two backgrounds.

Three of the twelve shape-colour pairs are held out of training. Chapter 16 trains the complete model on it; so do two benchmarks.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from minildm.clip import Clip, train_clip, zero_shot
from minildm.config import AutoencoderConfig, ClipConfig, LatentDiffusionConfig, TextConfig, UNetConfig
from minildm.ema import EMA
from minildm.engine import shapes
from minildm.engine.data import Data, number_texts, to_float
from minildm.engine.judges import Judge, judge_loss, roughen
from minildm.engine.presets import Settings
from minildm.engine.seeds import seeded
from minildm.engine.stages import AutoencoderStage, DenoiserStage, encode_all, joined
from minildm.gaussian import Gaussian
from minildm.ldm import LatentDiffusion
from minildm.tokenizer import Tokenizer

SHAPES = tuple(shapes.SHAPES.index(name) for name in ("circle", "triangle", "cross"))
COLOURS, BACKGROUNDS = range(4), range(2)  # red, green, blue, yellow; white, black
PLACES = range(1, 5)  # the four corners
ALL = tuple((shape, colour) for shape in SHAPES for colour in COLOURS)
HELD_OUT = tuple((SHAPES[place], place) for place in range(3))  # red circle, green triangle, blue cross
SEEN = tuple(pair for pair in ALL if pair not in HELD_OUT)
WORDING = 1  # "large red circle, top left, white background"
CHANCE = 1 / (len(ALL) * len(PLACES) * len(BACKGROUNDS))  # of being right about everything by luck

MODEL = LatentDiffusionConfig(
    image_size=32,
    autoencoder=AutoencoderConfig(latent_channels=4, widths=(16, 32, 32), groups=1, middle_attention=False),
    unet=UNetConfig(widths=(32, 64), heads=(2, 2), context_width=64, groups=2),
    text=TextConfig(vocabulary=600, length=12, width=64, layers=1, heads=2),
    schedule="linear",
)
SETTINGS = Settings(
    limit=2000,
    precision="float32",
    autoencoder_steps=160,
    autoencoder_batch=8,
    autoencoder_lr=2e-3,
    steps=300,
    batch=32,
    lr=2e-3,
    warmup=50,
    time_power=0.75,
    ema=0.99,
    guidance=2.0,
    sample_steps=10,
    model=MODEL,
)


def draw_scenes(count: int, pairs: Sequence[tuple[int, int]], generator: torch.Generator) -> Tensor:
    """Scenes as in `shapes`, count×7, whose shape and colour are one of these pairs; all else uniform."""

    def one_of(choices: Sequence) -> Tensor:
        return torch.tensor(choices)[torch.randint(len(choices), (count,), generator=generator)]

    alone = torch.full((count, 2), -1)
    large = torch.full((count, 1), list(shapes.SIZES).index("large"))
    place, pair, background = one_of(PLACES)[:, None], one_of(pairs), one_of(BACKGROUNDS)[:, None]
    return torch.cat([place, large, pair, alone, background], 1)


def draw_data(count: int, pairs: Sequence[tuple[int, int]], seed: int) -> Data:
    """Pictures with captions and attributes; other seeds, other pictures."""
    generator = seeded(seed, "small world")
    scenes = draw_scenes(count, pairs, generator)
    texts, wordings = number_texts([[caption_of(scene)] for scene in scenes.tolist()])
    return Data(shapes.render(scenes, generator), texts, wordings, scenes, shapes.ATTRIBUTES)


def caption_of(scene: Sequence[int]) -> str:
    """The one wording of this world."""
    return shapes.caption(scene, WORDING)


def untrained(settings: Settings, texts: Sequence[str]) -> LatentDiffusion:
    """The model at its start, its weights drawn with the settings' seed."""
    tokenizer = Tokenizer.train(texts, settings.model.text.vocabulary)
    torch.manual_seed(settings.seed)
    return LatentDiffusion(settings.model, tokenizer)


def read_as_clip(model: LatentDiffusion, data: Data, steps: int, seed: int = 0) -> Clip:
    """Train chapter 14's towers on these pictures and captions; the model gets that of the text, frozen. Returns the towers."""
    config = model.config
    torch.manual_seed(seed)
    clip = Clip(ClipConfig(image_size=config.image_size, widths=(16, 32, 64), groups=1, text=config.text))
    train_clip(clip, to_float(data.images), model.tokens(data.captions()), steps, seeded(seed, "two towers"))
    model.text.load_state_dict(clip.text.state_dict())
    model.text.requires_grad_(False)
    return clip


@torch.no_grad()
def named(clip: Clip, model: LatentDiffusion, data: Data) -> float:
    """The share of pictures whose shape and colour the towers name, among the captions of all twelve pairs at that place."""
    right = 0
    for picture, scene in zip(to_float(data.images), data.attributes.tolist(), strict=True):
        choices = [caption_of([*scene[:2], *pair, *scene[4:]]) for pair in ALL]
        best = zero_shot(clip, picture[None], model.tokens(choices)).argmax().item()
        right += ALL[best] == tuple(scene[2:4])
    return right / len(data)


def first_stage(model: LatentDiffusion, data: Data, settings: Settings) -> tuple[Gaussian, list[float]]:
    """The first stage, and the scale factor. Returns the latents of all pictures and the loss of every step."""
    stage = AutoencoderStage(model, data, settings)
    losses = [stage.step(step).item() for step in range(settings.autoencoder_steps)]
    model.autoencoder.eval()
    return joined(encode_all(model, data.images, settings), model.autoencoder), losses


def second_stage(
    model: LatentDiffusion, latents: Gaussian, data: Data, settings: Settings
) -> tuple[LatentDiffusion, list[float]]:
    """The second stage. Returns the model with averaged weights and the loss of every step."""
    stage = DenoiserStage(model, latents, data, settings)
    stage.ema = EMA(model, settings.ema)
    losses = [stage.step(step).item() for step in range(settings.steps)]
    stage.ema.average.tokenizer = model.tokenizer
    return stage.ema.average, losses


def train_judge_here(steps: int = 100, batch: int = 64, width: int = 16) -> Judge:
    """A judge for this world, trained on fresh renders of all pairs, blurred and noisy ones too."""
    torch.manual_seed(0)
    judge = Judge(3, 32, tuple(shapes.ATTRIBUTES.values()), width)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=4e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        generator = seeded(0, "small judge", step)
        scenes = draw_scenes(batch, ALL, generator)
        loss = judge_loss(judge, roughen(to_float(shapes.render(scenes, generator)), generator), scenes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return judge.eval()


def with_steps(settings: Settings, autoencoder_steps: int, steps: int, **model_changes) -> Settings:
    """The same settings for a longer or shorter training, or another model."""
    model = dataclasses.replace(settings.model, **model_changes)
    return dataclasses.replace(settings, autoencoder_steps=autoencoder_steps, steps=steps, model=model)
