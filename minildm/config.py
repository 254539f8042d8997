"""The sizes of every network, in frozen dataclasses that need no torch.

One class for each network of the book. The defaults are a model of some five million parameters, the presets of five minutes have
two: two CPU cores train them in minutes. Stable Diffusion 1.5 is the same classes with other numbers.
"""

import dataclasses
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

Schedule = Literal["linear", "cosine", "scaled_linear"]
Prediction = Literal["epsilon", "x0", "v", "flow"]
Spacing = Literal["leading", "trailing", "linspace"]


def check_groups(widths: tuple[int, ...], groups: int) -> None:
    """Raise ValueError unless there are 1 to 10 widths and `groups` divides each."""
    if not widths:
        raise ValueError("widths=() is empty: give at least one")
    if len(widths) > 10:
        raise ValueError(f"widths={widths} are {len(widths)} levels: at most 10, each halves the map")
    for width in widths:
        if groups < 1 or width < 1 or width % groups:
            raise ValueError(f"groups={groups} does not divide the width {width}: choose a divisor")


def check_whole(config: Any, least: int, *names: str, most: int = 2**40) -> None:
    """Raise ValueError unless each of these fields is a whole number from `least` to `most`."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value} must be a whole number, at least {least}")
        if value > most:
            raise ValueError(f"{name}={value} must be at most {most}")


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
    groups: int = 4  # of every GroupNorm; with 16 channels or more in each, CPUs are faster
    linear_projection: bool = False  # into and out of a transformer: a linear layer (SD 2) or a 1×1 convolution (SD 1)

    def __post_init__(self) -> None:
        for name in ("attention", "heads"):
            value = getattr(self, name)
            if len(value) != len(self.widths):
                raise ValueError(f"{name}={value} needs one entry for each of the {len(self.widths)} widths {self.widths}")
        check_groups(self.widths, self.groups)
        check_whole(self, 1, "in_channels", "out_channels")
        check_whole(self, 1, "blocks", "depth", most=32)
        middle = (*[False] * (len(self.widths) - 1), self.middle_attention)  # it has the last level's heads
        for width, heads, *used in zip(self.widths, self.heads, self.attention, middle, strict=True):
            if heads < 1 or (any(used) and width % heads):
                raise ValueError(f"heads={heads} does not divide the width {width}: choose a divisor")


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The KL autoencoder of chapter 15. Images shrink by 2 for every width after the first."""

    image_channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (32, 64, 64)
    blocks: int = 1
    groups: int = 2
    middle_attention: bool = True

    def __post_init__(self) -> None:
        check_groups(self.widths, self.groups)
        check_whole(self, 1, "image_channels", "latent_channels")
        check_whole(self, 1, "blocks", most=32)

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
    feed_forward: int | None = None  # width of the feed-forward halves; None: 4 × width
    pad: int | None = None  # the token that fills after the end token; None: the end token itself

    def __post_init__(self) -> None:
        check_whole(self, 1, "vocabulary", "width", *(["feed_forward"] if self.feed_forward is not None else []))
        if self.pad is not None and not 0 <= self.pad < self.vocabulary:
            raise ValueError(f"pad={self.pad} must be one of the tokens 0..{self.vocabulary - 1}")
        check_whole(self, 1, "layers", most=128)
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide the width {self.width}: choose a divisor")
        if self.length < 2:
            raise ValueError(f"length={self.length} leaves no room for the start and end tokens: at least 2")
        check_whole(self, 2, "length", most=4096)


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """The image tower and the text tower of chapter 14. Maps halve between the levels of the image tower."""

    image_channels: int = 3
    image_size: int = 32
    widths: tuple[int, ...] = (32, 64, 128)  # channels, level by level
    groups: int = 2
    text: TextConfig = TextConfig(width=64, layers=2)
    width: int = 64  # of the space in which pictures and captions meet

    def __post_init__(self) -> None:
        check_groups(self.widths, self.groups)
        check_whole(self, 1, "image_channels", "width")
        check_whole(self, 1, "image_size", most=16384)
        if self.image_size % 2 ** (len(self.widths) - 1):
            factor = 2 ** (len(self.widths) - 1)
            raise ValueError(f"image_size={self.image_size} is not a multiple of {factor}, by which the levels shrink it")


@dataclasses.dataclass(frozen=True)
class GridConfig:
    """Which times samplers visit: options of chapter 11's `time_grid`."""

    spacing: Spacing = "trailing"
    offset: int = 0  # leading times are so much later
    end: int = 0  # where the last step of DDIM ends: at clean data, or at t = 1

    def __post_init__(self) -> None:
        check_choice("spacing", self.spacing, Spacing)
        check_whole(self, 0, "offset")
        check_whole(self, 0, "end", most=1)
        if self.offset and self.spacing != "leading":
            raise ValueError(f"offset={self.offset} shifts leading times, not {self.spacing} ones: set it to 0")


@dataclasses.dataclass(frozen=True)
class LatentDiffusionConfig:
    """The complete model of chapter 16."""

    image_size: int = 32
    unet: UNetConfig = UNetConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    text: TextConfig = TextConfig()
    schedule: Schedule = "cosine"
    T: int = 1000  # diffusion steps
    betas: tuple[float, ...] | None = None  # β_1 and β_T of a linear or scaled_linear schedule; None: its own
    zero_terminal_snr: bool = False
    prediction: Prediction = "v"
    grid: GridConfig = GridConfig()

    def __post_init__(self) -> None:
        check_whole(self, 2, "T", most=1_000_000)
        check_whole(self, 1, "image_size", most=16384)
        check_choice("schedule", self.schedule, Schedule)
        check_choice("prediction", self.prediction, Prediction)
        if self.betas is not None:
            if self.schedule == "cosine":
                raise ValueError(f"betas={self.betas}: the cosine schedule has none to choose, leave them out")
            if len(self.betas) != 2 or not 0 < self.betas[0] <= self.betas[1] < 1:
                raise ValueError(f"betas={self.betas} must be two numbers, 0 < β_1 ≤ β_T < 1")
        factor = self.autoencoder.factor * 2 ** (len(self.unet.widths) - 1)
        if self.image_size % factor:
            raise ValueError(
                f"image_size={self.image_size} is not a multiple of {factor}, by which autoencoder and U-Net shrink it"
            )
        if self.unet.context_width != self.text.width:
            raise ValueError(
                f"unet.context_width={self.unet.context_width} differs from text.width={self.text.width}: make them equal"
            )
        if not any(self.unet.attention) and not self.unet.middle_attention:
            raise ValueError(
                f"unet.attention={self.unet.attention} and unet.middle_attention=False: nothing would read the text, "
                f"let a level or the middle attend"
            )
        channels = self.autoencoder.latent_channels
        if self.unet.out_channels != channels or self.unet.in_channels < channels:
            raise ValueError(
                f"unet.out_channels={self.unet.out_channels} must be autoencoder.latent_channels={channels}, and "
                f"unet.in_channels={self.unet.in_channels} as many, or more for conditions beside the latents"
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
    return kind(**{name: typed(name, value, hints[name]) for name, value in values.items()})


def typed(name: str, value: Any, hint: Any) -> Any:
    """A JSON value as the type that a field declares. Raises ValueError when it is of another.

    Types of fields are numbers, texts, truth values, tuples of any length, literals, other configurations, or None.
    """
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value)
    kind, inside = get_origin(hint), get_args(hint)
    if kind is UnionType:
        return None if value is None else typed(name, value, inside[0])
    if kind is tuple and isinstance(value, list | tuple):
        return tuple(typed(name, entry, inside[0]) for entry in value)
    if hint is float and type(value) is int and abs(value) <= 2**53:
        return float(value)
    if kind is not Literal and type(value) is not hint:
        wanted = str(hint) if kind else hint.__name__
        raise ValueError(f"{name}={value!r} should be of type {wanted}")
    return value  # of a Literal the configuration itself checks
