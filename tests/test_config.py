"""Configurations survive JSON; every impossible one is refused by name and value."""

import contextlib
import dataclasses
import json
import math

import pytest

from minildm.config import AutoencoderConfig, GridConfig, LatentDiffusionConfig, TextConfig, UNetConfig, from_dict, to_dict
from minildm.engine.presets import PRESETS, Settings

OTHER_MODEL = LatentDiffusionConfig(
    image_size=64,
    unet=UNetConfig(3, 3, (32, 64, 96), 2, (True, False, True), (2, 4, 8), 2, False, 64, 16, 8, True),
    autoencoder=AutoencoderConfig(1, 3, (8, 16), 2, 8, False),
    text=TextConfig(700, 30, 64, 3, 2, False, False, 100, 0),
    schedule="scaled_linear",
    T=500,
    zero_terminal_snr=True,
    prediction="flow",
    betas=(0.001, 0.02),
    grid=GridConfig("leading", 2, 1),
)
TRAINABLE = dataclasses.replace(OTHER_MODEL, unet=dataclasses.replace(OTHER_MODEL.unet, extra_width=None))
OTHER_SETTINGS = Settings(data="somewhere", templates=("{label}",), minutes=None, min_snr=None, lr=3e-4, model=TRAINABLE)


def through_json(config):
    return from_dict(type(config), json.loads(json.dumps(to_dict(config))))


@pytest.mark.parametrize(
    "config",
    [LatentDiffusionConfig(), OTHER_MODEL, Settings(), OTHER_SETTINGS, UNetConfig(context_width=None)]
    + [settings for _, settings in PRESETS.values()],
    ids=lambda config: type(config).__name__,
)
def test_a_configuration_survives_json(config):
    again = through_json(config)
    assert again == config and type(again) is type(config) and hash(again) == hash(config)
    for field in dataclasses.fields(config):  # tuples stay tuples, all the way down
        assert type(getattr(again, field.name)) is type(getattr(config, field.name))


def test_the_example_differs_from_the_defaults_everywhere():
    """Otherwise a field that is dropped on the way through JSON would not be noticed."""

    def leaves(config, prefix=""):
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if dataclasses.is_dataclass(value):
                yield from leaves(value, f"{prefix}{field.name}.")
            else:
                yield prefix + field.name, value

    default, other = dict(leaves(LatentDiffusionConfig())), dict(leaves(OTHER_MODEL))
    assert default.keys() == other.keys()
    assert not [name for name in default if default[name] == other[name]]


def test_heads_need_to_divide_only_where_there_is_attention():
    """Other models' files have a number there, too; with it nothing is done."""
    assert UNetConfig(widths=(64, 102, 64), attention=(True, False, True), heads=(4, 4, 4), groups=2).heads == (4, 4, 4)
    for middle, accepted in ((False, True), (True, False)):  # the middle has the last level's
        with contextlib.nullcontext() if accepted else pytest.raises(ValueError, match="heads=5"):
            UNetConfig(attention=(True, False), heads=(4, 5), middle_attention=middle)


def test_whole_numbers_stand_for_real_ones():
    """JSON writers drop the fraction of 1.0."""
    settings = from_dict(Settings, {"lr": 1, "minutes": 5})
    assert (settings.lr, settings.minutes) == (1.0, 5.0) and type(settings.lr) is type(settings.minutes) is float


def test_fields_left_out_have_their_defaults():
    assert from_dict(Settings, {}) == Settings()
    assert from_dict(LatentDiffusionConfig, {"T": 7}) == dataclasses.replace(LatentDiffusionConfig(), T=7)


def test_configurations_are_frozen():
    for config in (Settings(), LatentDiffusionConfig(), UNetConfig(), TextConfig(), AutoencoderConfig()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.seed = 1


@pytest.mark.parametrize(
    ("kind", "values", "named"),
    [
        (Settings, {"stepz": 3}, ["Settings", "stepz", "steps"]),
        (Settings, {"model": {"unet": {"with": 3}}}, ["UNetConfig", "with", "widths"]),
        (LatentDiffusionConfig, {"text": {"size": 1}}, ["TextConfig", "size"]),
        (LatentDiffusionConfig, {"text": 5}, ["TextConfig", "5"]),
        (Settings, [1, 2], ["Settings", "[1, 2]"]),
        (Settings, {"steps": "many"}, ["steps='many'", "type int"]),
        (UNetConfig, {"widths": ["a", "b"]}, ["widths='a'", "type int"]),
        (LatentDiffusionConfig, {"image_size": 31}, ["image_size=31"]),
        (Settings, {"steps": True}, ["steps=True", "int"]),
        (Settings, {"lr": "fast"}, ["lr='fast'", "float"]),
        (Settings, {"templates": "a {label}"}, ["templates='a {label}'", "tuple"]),
        (Settings, {"templates": [3]}, ["templates=3", "str"]),
        (Settings, {"limit": 1.0}, ["limit=1.0", "int"]),
        (LatentDiffusionConfig, {"zero_terminal_snr": 1}, ["zero_terminal_snr=1", "bool"]),
        (LatentDiffusionConfig, {"prediction": ["v"]}, ["prediction=['v']"]),
        (UNetConfig, {"context_width": "wide"}, ["context_width='wide'", "int"]),
    ],
)
def test_what_from_dict_cannot_use_is_refused(kind, values, named):
    with pytest.raises(ValueError) as error:
        from_dict(kind, values)
    assert all(word in str(error.value) for word in named) and "\n" not in str(error.value)


WRONG = [
    (UNetConfig, {"widths": ()}, "()"),
    (UNetConfig, {"attention": (True,)}, "attention=(True,)"),
    (UNetConfig, {"heads": (1, 2, 4)}, "heads=(1, 2, 4)"),
    (UNetConfig, {"heads": (4, 5)}, "heads=5"),
    (UNetConfig, {"heads": (0, 4)}, "heads=0"),
    (UNetConfig, {"widths": (64, 102)}, "width 102"),
    (UNetConfig, {"groups": 48}, "groups=48"),
    (UNetConfig, {"groups": 0}, "groups=0"),
    (UNetConfig, {"widths": (0, 128)}, "width 0"),
    (UNetConfig, {"widths": (-64, 128)}, "-64"),
    (AutoencoderConfig, {"widths": ()}, "()"),
    (AutoencoderConfig, {"widths": (32, 33)}, "width 33"),
    (AutoencoderConfig, {"groups": 5}, "groups=5"),
    (TextConfig, {"heads": 3}, "heads=3"),
    (TextConfig, {"heads": 0}, "heads=0"),
    (TextConfig, {"length": 1}, "length=1"),
    (LatentDiffusionConfig, {"image_size": 36}, "image_size=36"),
    (LatentDiffusionConfig, {"image_size": 0}, "image_size=0"),
    (LatentDiffusionConfig, {"image_size": -32}, "image_size=-32"),
    (LatentDiffusionConfig, {"text": TextConfig(width=64)}, "text.width=64"),
    (LatentDiffusionConfig, {"unet": UNetConfig(context_width=None)}, "context_width=None"),
    (LatentDiffusionConfig, {"unet": UNetConfig(in_channels=3)}, "in_channels=3"),
    (LatentDiffusionConfig, {"unet": UNetConfig(out_channels=8)}, "out_channels=8"),
    (LatentDiffusionConfig, {"autoencoder": AutoencoderConfig(latent_channels=3)}, "latent_channels=3"),
    (LatentDiffusionConfig, {"zero_terminal_snr": True, "prediction": "epsilon"}, "epsilon"),
    (LatentDiffusionConfig, {"betas": (0.1, 0.2)}, "betas=(0.1, 0.2)"),
    (LatentDiffusionConfig, {"betas": (0.1,), "schedule": "linear"}, "betas=(0.1,)"),
    (LatentDiffusionConfig, {"betas": (0.2, 0.1), "schedule": "linear"}, "betas=(0.2, 0.1)"),
    (LatentDiffusionConfig, {"betas": (0.0, 0.1), "schedule": "linear"}, "betas=(0.0, 0.1)"),
    (LatentDiffusionConfig, {"betas": (0.1, 1.0), "schedule": "linear"}, "betas=(0.1, 1.0)"),
    (GridConfig, {"spacing": "even"}, "spacing='even'"),
    (GridConfig, {"offset": -1}, "offset=-1"),
    (GridConfig, {"offset": 1}, "offset=1"),
    (GridConfig, {"end": 2}, "end=2"),
    (TextConfig, {"pad": 5000}, "pad=5000"),
    (TextConfig, {"pad": -1}, "pad=-1"),
    (TextConfig, {"feed_forward": 0}, "feed_forward=0"),
    # A misspelt choice, as from a config.json edited by hand.
    (LatentDiffusionConfig, {"schedule": "cosin"}, "cosin"),
    (LatentDiffusionConfig, {"prediction": "noise"}, "noise"),
    (LatentDiffusionConfig, {"T": 1}, "T=1"),
    # Sizes with which building would not end, or not fit anywhere.
    (LatentDiffusionConfig, {"T": 10**7}, "T=10000000"),
    (LatentDiffusionConfig, {"image_size": 2**20}, "image_size=1048576"),
    (UNetConfig, {"blocks": 33}, "blocks=33"),
    (UNetConfig, {"depth": 10**9}, "depth=1000000000"),
    (UNetConfig, {"widths": (32,) * 11, "attention": (False,) * 11, "heads": (1,) * 11}, "11 levels"),
    (AutoencoderConfig, {"blocks": 33}, "blocks=33"),
    (TextConfig, {"layers": 129}, "layers=129"),
    (TextConfig, {"length": 5000}, "length=5000"),
    (Settings, {"seed": -1}, "seed=-1"),
    (Settings, {"seed": 2**62 + 1}, "seed=4611686018427387905"),
    (Settings, {"data": " "}, "data=' '"),
    (Settings, {"data": "a\0b"}, "names nothing"),
    (LatentDiffusionConfig, {"T": 0}, "T=0"),
    (UNetConfig, {"in_channels": 0, "out_channels": 0}, "in_channels=0"),
    (AutoencoderConfig, {"image_channels": 0}, "image_channels=0"),
    (Settings, {"fit": "stretch"}, "stretch"),
    (Settings, {"precision": "fp16"}, "fp16"),
    (Settings, {"templates": ()}, "templates=()"),
    (Settings, {"model": LatentDiffusionConfig(unet=UNetConfig(in_channels=9))}, "model.unet.in_channels=9"),
    (LatentDiffusionConfig, {"unet": UNetConfig(attention=(False, False), middle_attention=False)}, "would read the text"),
    (Settings, {"autoencoder_share": 0.0}, "autoencoder_share=0.0"),
    (Settings, {"autoencoder_share": 1.0}, "autoencoder_share=1.0"),
    (Settings, {"autoencoder_share": math.nan}, "autoencoder_share=nan"),
    (Settings, {"sample_steps": 1001}, "sample_steps=1001"),
    *((Settings, {name: 0}, f"{name}=0") for name in "autoencoder_steps autoencoder_batch steps batch checkpoint_every".split()),
    *((Settings, {name: -1}, f"{name}=-1") for name in "preview_every sample_steps limit warmup".split()),
    *((Settings, {name: 0.0}, f"{name}=0.0") for name in "autoencoder_lr lr clip minutes time_power min_snr".split()),
    *(
        (Settings, {name: math.nan}, f"{name}=nan")
        for name in "lr minutes time_power min_snr kl_weight weight_decay guidance ema drop_caption".split()
    ),
    *((Settings, {name: math.inf}, f"{name}=inf") for name in "lr minutes min_snr kl_weight weight_decay guidance ema".split()),
    *(
        (Settings, {name: -0.5}, f"{name}=-0.5")
        for name in "kl_weight weight_decay guidance guidance_high drop_caption ema".split()
    ),
    *((Settings, {name: 1.0}, f"{name}=1.0") for name in "drop_caption ema".split()),
    *((Settings, {"guidance_high": value}, f"guidance_high={value}") for value in (1.01, math.nan)),
]


@pytest.mark.parametrize(("kind", "values", "named"), WRONG, ids=[f"{kind.__name__}-{named}" for kind, _, named in WRONG])
def test_an_impossible_configuration_is_refused(kind, values, named):
    with pytest.raises(ValueError) as error:
        kind(**values)
    assert named in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_describes_itself_and_can_be_written_down(name):
    description, settings = PRESETS[name]
    assert description and "\n" not in description
    assert settings.model.text.width == settings.model.unet.context_width
    assert settings.model.image_size // settings.model.autoencoder.factor >= 2 ** (len(settings.model.unet.widths) - 1)


def test_the_factor_counts_halvings():
    assert [AutoencoderConfig(widths=(32,) * levels).factor for levels in (1, 2, 3, 4)] == [1, 2, 4, 8]
