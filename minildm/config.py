"""The sizes of every network, in frozen dataclasses that need no torch.

One class for each network of the book. The defaults are a model of some two million parameters that two CPU
cores train in minutes; Stable Diffusion 1.5 is the same classes with other numbers.
"""

import dataclasses
from typing import Any, Literal, get_args, get_type_hints

Schedule = Literal["linear", "cosine", "scaled_linear"]
Prediction = Literal["epsilon", "x0", "v", "flow"]


def check_groups(widths: tuple[int, ...], groups: int) -> None:
    """Raise ValueError unless `groups` divides every width."""
    if not widths:
        raise ValueError("widths=() is empty: give at least one")
    for width in widths:
        if groups < 1 or width < 1 or width % groups:
            raise ValueError(f"groups={groups} does not divide the width {width}: choose a divisor")


def check_at_least(config: Any, least: int, *names: str) -> None:
    """Raise ValueError unless each of these fields is a whole number of at least `least`."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value} must be a whole number, at least {least}")


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raise ValueError unless the value is one of a Literal type's."""
    if value not in get_args(choices):
        raise ValueError(f"{name}={value!r} is unknown: choose one of {', '.join(get_args(choices))}")


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """The denoiser of chapter 09. Level 0 has the largest maps; each further level halves height and width."""

    in_channels: int = 4
    out_channels: int = 4
    widths: tuple[int, ...] = (64, 128)  # channels, level by level
    blocks: int = 1  # residual blocks per level on the way down; one more on the way up
    attention: tuple[bool, ...] = (False, True)  # spatial transformers at this level?
    heads: tuple[int, ...] = (4, 4)  # attention heads, level by level
    depth: int = 1  # transformer blocks in each spatial transformer
    middle_attention: bool = True
    context_width: int | None = 128  # width of the text states; None: no cross-attention
    extra_width: int | None = None  # width of an embedding added to the time embedding; None: none
    groups: int = 32  # of every GroupNorm
    linear_projection: bool = False  # into and out of a transformer: a linear layer (SD 2) or a 1×1 convolution (SD 1)

    def __post_init__(self) -> None:
        for name in ("attention", "heads"):
            value = getattr(self, name)
            if len(value) != len(self.widths):
                raise ValueError(f"{name}={value} needs one entry for each of the {len(self.widths)} widths {self.widths}")
        check_groups(self.widths, self.groups)
        check_at_least(self, 1, "in_channels", "out_channels", "blocks", "depth")
        for width, heads in zip(self.widths, self.heads, strict=True):
            if heads < 1 or width % heads:
                raise ValueError(f"heads={heads} does not divide the width {width}: choose a divisor")


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The KL autoencoder of chapter 15. Images shrink by 2 for every width after the first."""

    image_channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (32, 64, 64)
    blocks: int = 1
    groups: int = 32
    middle_attention: bool = True

    def __post_init__(self) -> None:
        check_groups(self.widths, self.groups)
        check_at_least(self, 1, "image_channels", "latent_channels", "blocks")

    @property
    def factor(self) -> int:
        """How many pixels one latent position stands for, along each side."""
        return 2 ** (len(self.widths) - 1)


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The transformer text encoder of chapter 13, shaped like CLIP's."""

    vocabulary: int = 1024  # tokens, the two special ones included
    length: int = 24  # tokens in every encoded prompt, padding included
    width: int = 128
    layers: int = 1
    heads: int = 4
    quick_gelu: bool = True  # x·sigmoid(1.702 x), as in CLIP's first release; otherwise the exact GELU
    causal: bool = True

    def __post_init__(self) -> None:
        check_at_least(self, 1, "vocabulary", "width", "layers")
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide the width {self.width}: choose a divisor")
        if self.length < 2:
            raise ValueError(f"length={self.length} leaves no room for the start and end tokens: at least 2")


@dataclasses.dataclass(frozen=True)
class LatentDiffusionConfig:
    """The complete model of chapter 16."""

    image_size: int = 32
    unet: UNetConfig = UNetConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    text: TextConfig = TextConfig()
    schedule: Schedule = "cosine"
    T: int = 1000  # diffusion steps
    zero_terminal_snr: bool = False
    prediction: Prediction = "v"

    def __post_init__(self) -> None:
        check_at_least(self, 2, "T")
        check_choice("schedule", self.schedule, Schedule)
        check_choice("prediction", self.prediction, Prediction)
        factor = self.autoencoder.factor * 2 ** (len(self.unet.widths) - 1)
        if self.image_size < 1 or self.image_size % factor:
            raise ValueError(
                f"image_size={self.image_size} is not a multiple of {factor}, by which autoencoder and U-Net shrink it"
            )
        if self.unet.context_width != self.text.width:
            raise ValueError(
                f"unet.context_width={self.unet.context_width} differs from text.width={self.text.width}: make them equal"
            )
        if self.unet.in_channels != self.autoencoder.latent_channels or self.unet.out_channels != self.unet.in_channels:
            raise ValueError(
                f"unet.in_channels={self.unet.in_channels} and out_channels={self.unet.out_channels} must both be "
                f"autoencoder.latent_channels={self.autoencoder.latent_channels}"
            )
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise ValueError("prediction='epsilon' cannot be used with zero_terminal_snr: at t = T it says nothing; use 'v'")


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain JSON values."""
    return dataclasses.asdict(config)


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """Rebuild a configuration of class `kind` from what `to_dict` gave, or from the same after a trip through JSON.

    Raises:
        ValueError: a field that `kind` lacks, or a value that it refuses.
    """
    hints = get_type_hints(kind)
    if not isinstance(values, dict):
        raise ValueError(f"{kind.__name__} should be an object, not {values!r}")
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{kind.__name__} has no field {unknown[0]!r}: it has {', '.join(hints)}")
    known = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = from_dict(hints[name], value)
        elif isinstance(value, list):
            value = tuple(value)
        known[name] = value
    try:
        return kind(**known)
    except TypeError as error:  # a string where a number belongs
        raise ValueError(f"{kind.__name__}: {error}") from error
