"""The door to Stable Diffusion: folders in diffusers' layout become runs, and runs such folders (chapter 21).

Configurations are translated (`foreign.py`), tensors get other names (`names.py`), and the numbers are taken as they are, but
for one matrix: the two sides' clocks differ by one step.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minildm import config as configs
from minildm.autoencoder import Autoencoder
from minildm.config import LatentDiffusionConfig
from minildm.fields import Fields
from minildm.files import folder_made_whole, linked, read_json, write_text
from minildm.foreign import (
    read_autoencoder,
    read_schedule,
    read_text_encoder,
    read_unet,
    write_autoencoder,
    write_schedule,
    write_text_encoder,
    write_unet,
)
from minildm.layout import PARTS, PICKLES, read_tokenizer, weights_of
from minildm.ldm import LAYOUT, model_config
from minildm.names import LEGACY, TEXT, UNET, Rules, autoencoder_rules, renamed
from minildm.schedule import schedule_of
from minildm.tensors import Tensors, save_tensors, without_memory
from minildm.text import TextEncoder
from minildm.tokenizer import END, START, Tokenizer
from minildm.unet import UNet

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionImg2ImgPipeline")
CLOCK = "unet.time.0.weight"  # the one tensor whose numbers change


def shifted_time(weight: Tensor, by: float) -> Tensor:
    """The first layer of a time embedding, for a clock that is `by` late: W′ f(t) = W f(t + by), for the features f of (09.5).

    diffusers tells its U-Net i = t − 1, we tell ours t; so weights that come in are shifted by −1, weights that go out by 1.
    It takes no change of the network: cos ω(t + b) = cos ωb cos ωt − sin ωb sin ωt and sin ω(t + b) = sin ωb cos ωt +
    cos ωb sin ωt, so that f(t + b) is f(t), each pair of it turned by the angle ωb, Eq. (21.5).

    Args: weight: W, out×width, cosines first.   by: b, in steps.

    Returns: W′, float32.
    """
    half = weight.shape[1] // 2
    angle = by * torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float64) / half)
    of_cos, of_sin = weight.double().split(half, 1)
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.cat([of_cos * cos + of_sin * sin, of_sin * cos - of_cos * sin], 1).float()


def same_map(weight: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """A linear layer as a 1×1 convolution or the reverse, Eq. (21.4): W[o, i] = K[o, i, 1, 1]; the numbers stay.

    Args: weight: out×in or out×in×1×1.   shape: the wanted one of the two.   Raises ValueError when they are not the same map.
    """
    if without_ones(weight.shape) != without_ones(shape):
        raise ValueError(f"a weight of shape {tuple(weight.shape)} is no map of shape {tuple(shape)}")
    return weight.reshape(shape)


def without_ones(shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the linear map that a 1×1 kernel is."""
    return tuple(shape[:2]) if tuple(shape[2:]) == (1, 1) else tuple(shape)


def taken_over(ours: nn.Module, theirs: Tensors, rules: Rules, path: Path, skip: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Our module's tensors, by our names, out of their files. `ours` may be without memory, and is only asked for names.

    Raises:
        ValueError: a tensor that they lack, that we have no use for, or of another shape or type; it is named.
    """
    modern = {renamed(name, LEGACY): name for name in theirs if not name.endswith("position_ids")}
    found = {}
    for name, wanted in ours.state_dict().items():
        if name in skip:
            continue
        partner = renamed(name, rules)
        if partner not in modern:
            raise ValueError(f"{path} lacks {partner!r}, which {name} would be")
        stored = modern.pop(partner)
        if without_ones(theirs.shape(stored)) != without_ones(wanted.shape):
            raise ValueError(f"{path}: {stored} has shape {theirs.shape(stored)}, its configuration wants {tuple(wanted.shape)}")
        if theirs.kind(stored) not in ("F32", "F16", "BF16", "F64"):
            raise ValueError(f"{path}: {stored} holds {theirs.kind(stored)} numbers, which is no type for weights here")
        found[name] = same_map(theirs[stored], wanted.shape)
    for name in sorted(modern.values()):
        raise ValueError(f"{path} has {name!r}, for which its configuration has no place")
    return found


def translated(folder: Path) -> tuple[LatentDiffusionConfig, Tokenizer, float, list[str]]:
    """The whole model's configuration out of a folder's JSON files; its tokenizer, scale factor, and what to tell the user.

    Raises:
        ValueError: no such folder, a part that is missing, another architecture, a value that minildm does not have.
    """
    if not folder.is_dir():
        kind = (
            "a pickle, which can run any code when it is opened" if folder.suffix in PICKLES else "no folder in diffusers' layout"
        )
        raise ValueError(f"{folder} is {kind}: name a folder that holds a model_index.json and safetensors")
    index = read_json(linked(folder / "model_index.json"))
    if index.get("_class_name") not in PIPELINES:
        raise ValueError(
            f"{folder / 'model_index.json'} is of a {index.get('_class_name')}: minildm opens Stable Diffusion 1 and 2, which "
            f"are {', '.join(PIPELINES)}"
        )
    unet, latent_size = read_unet(Fields(folder / "unet" / "config.json"))
    autoencoder, scale = read_autoencoder(Fields(folder / "vae" / "config.json"))
    tokenizer, pad, longest = read_tokenizer(folder / "tokenizer")
    text = read_text_encoder(Fields(folder / "text_encoder" / "config.json"), pad)
    if longest is not None and longest < text.length:
        raise ValueError(f"{folder}: the tokenizer's model_max_length={longest} is below the text encoder's {text.length} places")
    schedule = Fields(folder / "scheduler" / "scheduler_config.json")
    try:
        config = LatentDiffusionConfig(latent_size * autoencoder.factor, unet, autoencoder, text, **read_schedule(schedule))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    highest = max(tokenizer.vocabulary.values())
    if highest >= text.vocabulary:
        raise ValueError(f"{folder}: the tokenizer has token {highest}, the text encoder knows {text.vocabulary}")
    notes = [f"{schedule.values['_class_name']}: its noise and times are taken over; DPM-Solver++ draws, unless told otherwise"]
    notes += [
        f"{name} is left out" for name in ("safety_checker", "image_encoder") if index.get(name) not in (None, [None, None])
    ]
    return config, tokenizer, scale, notes


def parts_of(config: LatentDiffusionConfig) -> dict[str, tuple[str, nn.Module, Rules]]:
    """Each of their folders, with our name for the part, our class without memory, and the rules for its names."""
    with without_memory():
        return {
            "unet": ("unet", UNet(config.unet), UNET),
            "vae": ("autoencoder", Autoencoder(config.autoencoder), autoencoder_rules(config.autoencoder)),
            "text_encoder": ("text", TextEncoder(config.text), TEXT),
        }


def import_folder(folder: Path | str, run: Path | str) -> list[str]:
    """Write what `LatentDiffusion.load` reads, from a folder in diffusers' layout. Returns what the user should know.

    The weights keep their precision on disk. At most all of them are in memory, once.

    Args:
        folder: with model_index.json, unet/, vae/, text_encoder/, tokenizer/, scheduler/.
        run: a folder to make.

    Raises:
        ValueError: `run` exists, or `folder` holds something that minildm cannot open: the file and the value are named.
    """
    folder, run = Path(folder), Path(run)
    config, tokenizer, scale, notes = translated(folder)
    weights = {"autoencoder.scale": torch.tensor(scale)}
    with folder_made_whole(run) as aside:
        for part, (ours, module, rules) in parts_of(config).items():
            tensors = weights_of(folder / part, PARTS[part])
            found = taken_over(module, tensors, rules, folder / part, skip=("scale",))
            weights |= {f"{ours}.{name}": tensor for name, tensor in found.items()}
        weights[CLOCK] = shifted_time(weights[CLOCK], -1)
        save_tensors(weights, aside / "model.safetensors")
        tokenizer.save(aside)
        write_text(aside / "config.json", json.dumps({"layout": LAYOUT, "model": configs.to_dict(config)}, indent=1))
    count = sum(tensor.numel() for tensor in weights.values())
    return [f"{count:,} numbers, pictures of {config.image_size}×{config.image_size} pixels", *notes]


def export_run(run: Path | str, folder: Path | str) -> list[str]:
    """Write a folder that diffusers' StableDiffusionPipeline opens, from a run. Returns what the user should know.

    Args:
        run: a run's folder, or one that `LatentDiffusion.save` wrote.
        folder: to make.

    Raises:
        ValueError: `folder` exists, the run is not whole, or has something that diffusers has no word for.
    """
    run, folder = Path(run), Path(folder)
    config = model_config(read_json(run / "config.json"), run)
    tokenizer, weights = Tokenizer.load(run), Tensors(run / "model.safetensors")
    documents = documents_of(config, tokenizer, weights["autoencoder.scale"].item())
    with folder_made_whole(folder) as aside:
        for path, document in documents.items():
            (aside / path).parent.mkdir(exist_ok=True)
            write_text(aside / path, json.dumps(document, indent=2))
        tokenizer.save(aside / "tokenizer")
        for part, (ours, module, rules) in parts_of(config).items():
            prefix = "text_model." if part == "text_encoder" else ""
            names = [name for name in module.state_dict() if name != "scale"]
            theirs = {prefix + renamed(name, rules): weights[f"{ours}.{name}"] for name in names}
            if part == "unet":
                theirs["time_embedding.linear_1.weight"] = shifted_time(weights[CLOCK], 1)
            save_tensors(theirs, aside / part / f"{PARTS[part]}.safetensors")
    sampler = documents["scheduler/scheduler_config.json"]["_class_name"]
    return [f"{documents['model_index.json']['_class_name']}.from_pretrained({str(folder)!r}) opens it; it draws with {sampler}"]


def documents_of(config: LatentDiffusionConfig, tokenizer: Tokenizer, scale: float) -> dict[str, dict[str, Any]]:
    """Every JSON file of an exported folder, by its path. Raises ValueError for what diffusers has no word for."""
    extra = config.unet.in_channels - config.autoencoder.latent_channels
    if extra not in (0, 1 + config.autoencoder.latent_channels):
        raise ValueError(
            f"unet.in_channels={config.unet.in_channels} cannot be exported: an inpainting model has a mask and a picture's "
            f"latents beside {config.autoencoder.latent_channels} of its own"
        )
    beta = schedule_of(dataclasses.replace(config, zero_terminal_snr=False)).beta
    scheduler = write_schedule(config, config.betas or (beta[1].item(), beta[-1].item()))
    start, end = tokenizer.vocabulary[START], tokenizer.vocabulary[END]
    pad = END if config.text.pad is None else tokenizer.names[config.text.pad]
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    size = config.image_size // config.autoencoder.factor
    return {
        "model_index.json": {
            "_class_name": "StableDiffusionInpaintPipeline" if extra else "StableDiffusionPipeline",
            "_diffusers_version": "0.42.1",  # whose fields these are
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "scheduler": ["diffusers", scheduler["_class_name"]],
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
        },
        "unet/config.json": write_unet(config.unet, size),
        "vae/config.json": write_autoencoder(config.autoencoder, scale, config.image_size),
        "text_encoder/config.json": write_text_encoder(config.text, start, end),
        "tokenizer/tokenizer_config.json": special
        | {"tokenizer_class": "CLIPTokenizer", "model_max_length": config.text.length, "do_lower_case": True},
        "tokenizer/special_tokens_map.json": special,
        "scheduler/scheduler_config.json": scheduler,
    }
