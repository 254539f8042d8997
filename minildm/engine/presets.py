"""What to train, on what, for how long: one frozen dataclass, one preset for each data set. Torch-free."""

import dataclasses
import math
import re
from typing import Literal

from minildm.config import (
    AutoencoderConfig,
    LatentDiffusionConfig,
    Schedule,
    TextConfig,
    UNetConfig,
    check_choice,
    check_whole,
)

Fit = Literal["crop", "pad"]
Precision = Literal["auto", "bf16", "float32"]
BYTES = 514  # tokens of a vocabulary without merges: each byte, each byte that ends a word, start and end


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a run depends on. Stored in its config.json; every field is a flag of `minildm train`."""

    data: str = "shapes"
    """"shapes", a name on the hub, or a folder: a local copy of a data set, or pictures with metadata.jsonl."""
    limit: int = 0
    """Use at most so many training pictures; 0 uses all. For shapes: how many to render."""
    stream: bool = False
    """Read the data row by row and keep the resized pictures on disk: for sets too large to download or to hold in memory.
    With a limit, no more test pictures are read than training pictures."""
    fit: Fit = "crop"
    """How a picture gets its size: cut to a square and resize, or put in the middle of a black square."""
    templates: tuple[str, ...] = ("a photo of a {label}", "a picture of a {label}", "{label}")
    """Captions for data with class labels; {label} is the class, {word} the same with digits spelled out."""
    seed: int = 0
    """Decides the weights, the data's order and the noise."""
    minutes: float | None = None
    """Time for autoencoder, caching, denoiser and the final samples. Turned into steps by short timings."""
    autoencoder_share: float = 0.12
    """The autoencoder's part of the minutes."""
    precision: Precision = "auto"
    """bf16 runs the networks under autocast and, where it is native, the denoiser's Muon; auto chooses it where it is native."""

    autoencoder_steps: int = 3000
    autoencoder_batch: int = 16
    autoencoder_lr: float = 1e-3
    kl_weight: float = 1e-2
    """Nats of the latents' KL that one unit of reconstruction error is worth."""

    steps: int = 10000
    """Of the denoiser."""
    batch: int = 64
    lr: float = 1e-3
    """At its peak, reached after `warmup` steps; it then falls to a fiftieth along half a cosine. Muon, which moves matrices, and
    AdamW, which moves the rest, share it: it is what a step changes a weight by, in root mean square or at most."""
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    """Gradients longer than this are shortened to it."""
    drop_caption: float = 0.1
    """The share of captions replaced by the empty one, for classifier-free guidance."""
    time_power: float = 1.0
    """Times are drawn as T·u^p: 1 draws all alike, less draws noisy ones more often."""
    min_snr: float | None = None
    """γ of the min-SNR loss weights; None weighs every time alike."""
    ema: float = 0.999
    """The decay of the weights' moving average."""

    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    preview_every: int = 1000
    """Steps between pictures of samples."""
    guidance: float = 3.0
    """For previews, the final grid and the judge."""
    guidance_high: float = 1.0
    """The noisiest time at which to guide, as a share of T; 1 guides everywhere."""
    sample_steps: int = 20

    model: LatentDiffusionConfig = LatentDiffusionConfig()

    def __post_init__(self) -> None:
        positive = ("autoencoder_steps", "autoencoder_batch", "steps", "batch", "checkpoint_every", "preview_every")
        check_whole(self, 1, *positive, "sample_steps")
        check_whole(self, 0, "limit", "warmup")
        check_whole(self, 0, "seed", most=2**62)
        check_choice("fit", self.fit, Fit)
        check_choice("precision", self.precision, Precision)
        for name in ("autoencoder_lr", "lr", "clip", "minutes", "time_power", "min_snr"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} must be a positive, finite number")
        for name in ("kl_weight", "weight_decay", "guidance"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name}={getattr(self, name)} must be a finite number, at least 0")
        if not 0 <= self.guidance_high <= 1:
            raise ValueError(f"guidance_high={self.guidance_high} must lie in [0, 1]")
        for name in ("drop_caption", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1)")
        if self.minutes is not None and self.minutes > 1e6:
            raise ValueError(f"minutes={self.minutes} must be at most a million, two years")
        if self.model.unet.extra_width is not None:
            raise ValueError(
                f"model.unet.extra_width={self.model.unet.extra_width}: training has nothing to put there, leave it out"
            )
        if self.model.unet.in_channels != self.model.unet.out_channels:
            raise ValueError(
                f"model.unet.in_channels={self.model.unet.in_channels}: training has nothing to put beside the "
                f"{self.model.unet.out_channels} channels of the latents"
            )
        if not 0 < self.autoencoder_share < 1:
            raise ValueError(f"autoencoder_share={self.autoencoder_share} must lie between 0 and 1")
        if self.sample_steps > self.model.T:
            raise ValueError(f"sample_steps={self.sample_steps} exceeds the model's T={self.model.T} diffusion steps")
        if not self.templates:
            raise ValueError("templates=() is empty: give at least one")
        for template in self.templates:
            for hole in re.findall(r"\{[^{}]*\}?", template):
                if hole not in ("{label}", "{word}"):
                    raise ValueError(f"templates: {hole!r} in {template!r} is unknown: write {{label}} or {{word}}")
        if not self.data.strip() or "\0" in self.data:
            raise ValueError(f"data={self.data!r} names nothing: give shapes, a folder, or a data set on the hub")
        channels, size = self.model.autoencoder.image_channels, self.model.image_size
        if channels not in (1, 3):
            raise ValueError(f"model.autoencoder.image_channels={channels}: pictures have 1 (grey) or 3 (colour)")
        if self.data == "shapes" and (channels, size % 32) != (3, 0):
            raise ValueError(f"shapes have 3 channels and a multiple of 32 pixels, not {channels} and image_size={size}")
        if self.model.text.vocabulary < BYTES:
            raise ValueError(f"model.text.vocabulary={self.model.text.vocabulary}: the bytes alone need {BYTES}")

    def sampling(
        self, guidance: float | None = None, guidance_high: float | None = None, steps: int | None = None
    ) -> dict[str, float | int]:
        """What `LatentDiffusion.generate` is told: the run's own, but for what is given."""
        own = {"guidance": self.guidance, "guidance_high": self.guidance_high, "steps": self.sample_steps}
        given = {"guidance": guidance, "guidance_high": guidance_high, "steps": steps}
        return own | {name: value for name, value in given.items() if value is not None}


def small(
    image_size: int,
    channels: int,
    widths: tuple[int, ...],
    unet: UNetConfig,
    schedule: Schedule = "cosine",
    middle_attention: bool = True,
    **text: int,
) -> LatentDiffusionConfig:
    """A model for two CPU cores: an autoencoder of these widths, this U-Net, a text encoder as wide as its context."""
    autoencoder = AutoencoderConfig(
        image_channels=channels,
        latent_channels=unet.in_channels,
        widths=widths,
        groups=widths[0] // 16,
        middle_attention=middle_attention,
    )
    text = TextConfig(width=unet.context_width, **text)
    return LatentDiffusionConfig(image_size=image_size, autoencoder=autoencoder, unet=unet, text=text, schedule=schedule)


# No more channels on the small maps than on the large, attention in the middle alone: a step takes less than half as long as
# with the defaults, and in five minutes more steps give more than more weights would (benchmarks/RESULTS.md).
NARROW = UNetConfig(widths=(64, 64), attention=(False, False))
SIX = dataclasses.replace(NARROW, in_channels=6, out_channels=6)
WIDER = UNetConfig(widths=(96, 192), context_width=192, groups=6)
EIGHT = dataclasses.replace(WIDER, in_channels=8, out_channels=8)  # through 4 channels, photographs lose what tells them apart

PRESETS = {
    "shapes": (
        "coloured shapes with exact attributes, 32×32, drawn on the spot",
        Settings(
            data="shapes",
            limit=40000,
            minutes=5.0,
            autoencoder_share=0.15,
            batch=32,
            time_power=0.75,
            guidance=2.0,
            model=small(32, 3, (16, 32, 64), SIX, "linear", vocabulary=640, length=16),
        ),
    ),
    "mnist": (
        "handwritten digits, 32×32 grey",
        Settings(
            data="ylecun/mnist",
            fit="pad",
            templates=("a handwritten {word}", "the digit {word}", "the number {label}, written by hand", "{word}"),
            minutes=5.0,
            autoencoder_share=0.16,
            autoencoder_lr=2e-3,
            time_power=0.75,
            guidance=1.8,
            guidance_high=0.8,
            model=small(32, 1, (16, 32, 64), NARROW, middle_attention=False, vocabulary=640, length=16),
        ),
    ),
    "cifar10": (
        "photographs of ten classes, 32×32",
        Settings(
            data="uoft-cs/cifar10",
            minutes=60.0,
            batch=128,
            model=small(32, 3, (32, 64, 128), EIGHT, vocabulary=640, length=16),
        ),
    ),
    "emoji": (
        "captioned pictograms, 64×64, from a folder given with --data",
        Settings(
            data="emoji",
            minutes=60.0,
            model=small(64, 3, (16, 32, 64, 64), WIDER, vocabulary=2048, length=24),
        ),
    ),
    "folder": (
        "your own pictures, 64×64, with captions in metadata.jsonl or without, from a folder given with --data",
        Settings(
            data="pictures",
            minutes=60.0,
            model=small(64, 3, (16, 32, 64, 64), WIDER, vocabulary=2048, length=24),
        ),
    ),
}
