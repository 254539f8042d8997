"""Stable Diffusion's folders open here and ours in diffusers, with the same numbers on both sides."""

import copy
import dataclasses
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import stable_diffusion as reference
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from reference_weights import fill_at_random
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from minildm.engine.cli import main
from minildm.fields import Fields
from minildm.files import read_json
from minildm.foreign import read_unet
from minildm.interop import CLOCK, export_run, import_folder, translated
from minildm.ldm import LatentDiffusion
from minildm.names import UNET as NAMES
from minildm.names import renamed
from minildm.samplers import SAMPLERS
from minildm.schedule import schedule_of
from minildm.sizes import SD15, SD21
from minildm.tensors import Tensors, without_memory
from minildm.tokenizer import Tokenizer
from minildm.unet import UNet

TOLERANCE, CLOSE = 1e-4, 1e-5  # float32: whole drawings, and single networks
PROMPTS = ["a red cat on the mat", "the green dog", ""]
Miniature = tuple[StableDiffusionPipeline, Path, LatentDiffusion]
MINIATURES = list(reference.PARTS)


@pytest.fixture(autouse=True)
def fixed_threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def miniatures(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Miniature]:
    """Name → diffusers' pipeline, its folder, and our model of that folder. Each is made once. Not to be changed."""
    made = {}

    def get(name: str) -> Miniature:
        if name not in made:
            home = tmp_path_factory.mktemp("miniature")
            pipeline = reference.make(name, home / "folder")
            import_folder(home / "folder", home / "run")
            made[name] = pipeline, home / "folder", LatentDiffusion.load(home / "run")
        return made[name]

    return get


@pytest.fixture
def folder(miniatures, tmp_path) -> Path:
    """A copy of the smallest miniature's folder, to be changed."""
    shutil.copytree(miniatures(MINIATURES[-1])[1], tmp_path / "sd")
    return tmp_path / "sd"


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_same(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    """Equal, and not because both are constant."""
    assert ours.shape == theirs.shape and theirs.std() > 0.05
    difference = (ours - theirs).abs().max().item()
    print(f"largest difference {difference:.1e} at standard deviation {theirs.std():.2f}")
    assert difference <= tolerance


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.slow) for name in MINIATURES[:3]), MINIATURES[3]])
@torch.no_grad()
def test_every_part_computes_what_diffusers_computes(miniatures, name):
    """Tokens, text states, prediction at every time, latents and their spread, pictures."""
    pipeline, _, model = miniatures(name)
    length = pipeline.tokenizer.model_max_length
    tokens = pipeline.tokenizer(PROMPTS, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    assert torch.equal(model.tokens(PROMPTS), tokens)
    states = pipeline.text_encoder(tokens).last_hidden_state
    assert_same(model.text(tokens), states, CLOSE)

    x, index = normal(3, pipeline.unet.config.in_channels, 8, 16), torch.tensor([0, 500, 999])
    assert_same(model.unet(x, index + 1, states), pipeline.unet(x, index, states).sample, CLOSE)

    side = 8 * model.config.autoencoder.factor
    images, scale = normal(2, 3, side, 2 * side).tanh(), pipeline.vae.config.scaling_factor
    q = pipeline.vae.encode(images).latent_dist
    assert_same(model.encode(images).mean / scale, q.mean, CLOSE)
    assert_same(model.encode(images).log_var - 2 * math.log(scale), q.logvar, CLOSE)
    z = normal(2, pipeline.vae.config.latent_channels, 8, 16)
    assert_same(model.autoencoder.decode(z), pipeline.vae.decode(z / scale).sample, CLOSE)


def test_an_exclamation_mark_is_a_word_and_padding_is_not(miniatures):
    """Stable Diffusion 2 fills with token 0, "!", and transformers then takes every "!" of a prompt for padding.

    The model was trained with open_clip's tokens, in which "!" at the end of a word is a token of its own.
    """
    pipeline, _, model = miniatures("SD 2.1")
    text = "red cat! !"
    theirs = pipeline.tokenizer(text, padding="max_length", max_length=77).input_ids
    ours = model.tokens([text])[0].tolist()
    vocabulary = model.tokenizer.vocabulary
    assert vocabulary["!"] == 0 and model.config.text.pad == 0
    place = [index for index, token in enumerate(ours) if token == vocabulary["!</w>"]]
    assert len(place) == 2 and [theirs[index] for index in place] == [0, 0]
    assert [0 if index in place else token for index, token in enumerate(ours)] == theirs


def starts(model: LatentDiffusion, count: int, seed: int) -> Tensor:
    """The noise from which `generate` begins."""
    channels, side = model.config.autoencoder.latent_channels, model.condition_shape[1]
    return torch.stack([normal(channels, side, side, seed=seed + place) for place in range(count)])


def drawn_by(pipeline: StableDiffusionPipeline, model: LatentDiffusion, guidance: float, steps: int, seed: int, **more) -> Tensor:
    """diffusers' pictures of PROMPTS, in [-1, 1], from our noise."""
    options = {"guidance_scale": guidance, "num_inference_steps": steps, "output_type": "pt"}
    return pipeline(PROMPTS, latents=starts(model, len(PROMPTS), seed), **options, **more).images * 2 - 1


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp"])
@pytest.mark.parametrize(("guidance", "steps"), [(1.0, 7), (3.0, 10)])
@pytest.mark.parametrize("name", [*MINIATURES[:2], MINIATURES[3]])
def test_an_imported_model_draws_what_diffusers_draws(miniatures, name, guidance, steps, sampler):
    """At the times, and with the end, that the folder's scheduler has for DDIM, and for a DPM-Solver++ that is told "leading".

    (diffusers makes of such a file a DPM-Solver++ at its own default times, since the file does not name their spacing.)
    """
    pipeline, _, model = miniatures(name)
    assert (model.config.grid.offset, model.config.grid.end) == (1, 1)
    ours = model.generate(PROMPTS, guidance=guidance, steps=steps, sampler=sampler, seed=4)
    before = pipeline.scheduler
    if sampler == "dpmpp":
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
            {**before.config, "timestep_spacing": "leading", "_use_default_values": []}
        )
    try:
        assert_same(ours, drawn_by(pipeline, model, guidance, steps, seed=4))
    finally:
        pipeline.scheduler = before


@pytest.mark.slow
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_an_imported_dpm_solver_visits_the_times_of_diffusers(folder, miniatures, tmp_path, spacing):
    """diffusers' DPM-Solver++ chooses a time more than it needs, unless trailing, and ends at clean data."""
    pipeline, _, _ = miniatures(MINIATURES[-1])
    solver = DPMSolverMultistepScheduler(**reference.BETAS, timestep_spacing=spacing, steps_offset=1, prediction_type="sample")
    solver.save_pretrained(folder / "scheduler")
    import_folder(folder, tmp_path / "run")
    model = LatentDiffusion.load(tmp_path / "run")
    solver.set_timesteps(12)
    assert model.times(12, "dpmpp").tolist() == [*(solver.timesteps + 1).tolist(), 0]
    before, pipeline.scheduler = pipeline.scheduler, solver
    try:
        assert_same(model.generate(PROMPTS, guidance=3.0, steps=12, seed=2), drawn_by(pipeline, model, 3.0, 12, seed=2))
    finally:
        pipeline.scheduler = before


@pytest.mark.slow
def test_an_inpainting_model_draws_what_diffusers_draws(miniatures):
    """The U-Net reads z_t, then the mask, then the latents of the picture without what is masked."""
    pipeline, _, model = miniatures("inpainting")
    image, mask = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)), torch.zeros(3, 1, 64, 64)
    mask[:, :, 16:48, 24:] = 1.0
    seeded = {"generator": torch.Generator().manual_seed(8)}  # of the draw from the encoder's Gaussian
    theirs = drawn_by(pipeline, model, 3.0, 8, 3, image=image, mask_image=mask, height=64, width=64, **seeded)
    with torch.no_grad():
        hidden = model.encode((2 * image - 1) * (mask < 0.5)).sample(normal(3, 4, 8, 8, seed=8))
    condition = torch.cat([torch.nn.functional.interpolate(mask, (8, 8)), hidden], 1)
    assert model.condition_shape == (5, 8, 8)
    ours = model.generate(PROMPTS, guidance=3.0, steps=8, sampler="ddim", seed=3, condition=condition)
    assert_same(ours, theirs)
    with pytest.raises(ValueError, match=r"\(3, 0, 8, 8\).*\(3, 5, 8, 8\)"):
        model.generate(PROMPTS, steps=2)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp"])
def test_a_trained_run_draws_the_same_in_diffusers(trained, tmp_path, sampler):
    """Export, open with from_pretrained, draw from the same latents: the same pictures."""
    (note,) = export_run(trained, tmp_path / "sd")
    assert "DPMSolverMultistepScheduler" in note
    pipeline, model = StableDiffusionPipeline.from_pretrained(tmp_path / "sd"), LatentDiffusion.load(trained)
    pipeline.set_progress_bar_config(disable=True)
    if sampler == "ddim":
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    ours = model.generate(PROMPTS, guidance=2.5, steps=10, sampler=sampler, seed=6)
    assert_same(ours, drawn_by(pipeline, model, 2.5, 10, seed=6))


@pytest.mark.slow
@pytest.mark.parametrize("name", MINIATURES)
def test_there_and_back_again(miniatures, tmp_path, name):
    """A folder that was imported and exported opens as the same pipeline, with the same numbers."""
    pipeline, _, model = miniatures(name)
    model.save(tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "again")
    import_folder(tmp_path / "again", tmp_path / "back")
    back = LatentDiffusion.load(tmp_path / "back")
    assert back.config == model.config and back.tokenizer.vocabulary == model.tokenizer.vocabulary
    for key, value in model.state_dict().items():
        again = back.state_dict()[key]
        assert torch.equal(again, value) or (key == CLOCK and torch.allclose(again, value, atol=1e-6)), key
    assert type(pipeline).__name__ == read_json(tmp_path / "again" / "model_index.json")["_class_name"]
    kind = StableDiffusionInpaintPipeline if name == "inpainting" else StableDiffusionPipeline
    opened = kind.from_pretrained(tmp_path / "again")
    for part in ("unet", "vae", "text_encoder"):
        theirs, again = getattr(pipeline, part).state_dict(), getattr(opened, part).state_dict()
        assert theirs.keys() == again.keys()
        assert all(torch.allclose(theirs[key], again[key], atol=1e-6) for key in theirs)
    for key in ("beta_start", "beta_end", "prediction_type", "steps_offset", "set_alpha_to_one", "timestep_spacing"):
        assert opened.scheduler.config[key] == pipeline.scheduler.config[key], key
    assert (
        opened.tokenizer(PROMPTS, padding="max_length").input_ids == pipeline.tokenizer(PROMPTS, padding="max_length").input_ids
    )


def random_sizes(number: int) -> dict[str, dict]:
    """Sizes of a valid tiny model, all of them at random."""
    roll = random.Random(number)
    levels, groups = roll.randint(1, 3), roll.choice([1, 2, 4])
    widths = tuple(8 * roll.randint(1, 4) for _ in range(levels))
    heads = tuple(roll.choice([heads for heads in (1, 2, 4, 8) if width % heads == 0]) for width in widths)
    latents, pixels = roll.randint(1, 5), roll.choice([1, 3])
    text_heads = roll.choice([1, 2, 4])
    text_width = text_heads * roll.randint(2, 8)
    coarse = tuple(8 * roll.randint(1, 3) for _ in range(roll.randint(1, 3)))
    return {
        "unet": {
            "size": 8,
            "attends": tuple(roll.random() < 0.6 for _ in widths),
            "block_out_channels": widths,
            "attention_head_dim": heads if roll.random() < 0.7 else 4,
            "layers_per_block": roll.randint(1, 2),
            "transformer_layers_per_block": roll.randint(1, 2),
            "cross_attention_dim": text_width,
            "norm_num_groups": groups,
            "use_linear_projection": roll.random() < 0.5,
            "in_channels": latents,
            "out_channels": latents,
        },
        "vae": {
            "block_out_channels": coarse,
            "layers_per_block": roll.randint(1, 2),
            "latent_channels": latents,
            "in_channels": pixels,
            "out_channels": pixels,
            "norm_num_groups": roll.choice([1, 4, 8]),
            "mid_block_add_attention": roll.random() < 0.7,
            "scaling_factor": roll.uniform(0.1, 2.0),
        },
        "text": {
            "hidden_size": text_width,
            "num_attention_heads": text_heads,
            "intermediate_size": roll.randint(5, 90),
            "num_hidden_layers": roll.randint(1, 3),
            "max_position_embeddings": roll.randint(8, 40),
            "hidden_act": roll.choice(["gelu", "quick_gelu"]),
        },
    }


@pytest.fixture(scope="module")
def around(miniatures, tmp_path_factory) -> Path:
    """The parts of a folder that the property test does not vary: tokenizer, scheduler, index."""
    place = tmp_path_factory.mktemp("around") / "sd"
    shutil.copytree(
        miniatures(MINIATURES[-1])[1], place, ignore=lambda folder, names: {"unet", "vae", "text_encoder"} & set(names)
    )
    return place


@pytest.mark.parametrize("number", [*range(2), *(pytest.param(number, marks=pytest.mark.slow) for number in range(2, 56))])
@torch.no_grad()
def test_random_sizes_agree(around, tmp_path, number):
    """Any valid sizes: what diffusers saved, we open, and each part computes the same."""
    sizes, folder = random_sizes(number), tmp_path / "sd"
    shutil.copytree(around, folder)
    unet, vae = reference.unet(**sizes["unet"]), reference.autoencoder(**sizes["vae"])
    text = reference.text_encoder(**sizes["text"])
    for seed, (part, module) in enumerate({"unet": unet, "vae": vae, "text_encoder": text}.items()):
        fill_at_random(module, seed=seed).save_pretrained(folder / part)
    reference.change(folder / "tokenizer" / "tokenizer_config.json", model_max_length=sizes["text"]["max_position_embeddings"])
    import_folder(folder, tmp_path / "run")
    model = LatentDiffusion.load(tmp_path / "run")
    tokens = model.tokens(PROMPTS)
    states = text(tokens).last_hidden_state
    assert_same(model.text(tokens), states, CLOSE)
    x, index = normal(3, unet.config.in_channels, 8, 8), torch.tensor([0, 321, 999])
    assert_same(model.unet(x, index + 1, states), unet(x, index, states).sample, CLOSE)
    images = normal(1, vae.config.in_channels, model.config.image_size, model.config.image_size)
    scale = vae.config.scaling_factor
    assert_same(model.encode(images).mean / scale, vae.encode(images).latent_dist.mean, CLOSE)
    z = normal(1, vae.config.latent_channels, 8, 8)
    assert_same(model.autoencoder.decode(z), vae.decode(z / scale).sample, CLOSE)


# The folder's files in other forms


def same_as_before(folder: Path, model: LatentDiffusion, run: Path) -> bool:
    import_folder(folder, run)
    state = LatentDiffusion.load(run).state_dict()
    return all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def rewritten(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file({name: value.contiguous() for name, value in change(load_file(path)).items()}, path)


@pytest.mark.parametrize("as_convolutions", [False, True])
def test_names_of_2022_are_read(folder, miniatures, tmp_path, as_convolutions):
    """query, key, value, proj_attn in the autoencoder, as layers or as the 1×1 convolutions that they were before; text_model.
    and position_ids in the text encoder."""

    def old_autoencoder(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        old = {}
        for name, value in tensors.items():
            if "attentions" in name:
                for new, former in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
                    name = name.replace(f".{new}.", f".{former}.")
                value = value[:, :, None, None] if value.ndim == 2 and as_convolutions else value
            old[name] = value
        assert old.keys() != tensors.keys()
        return old

    def old_text(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        named = {"text_model." + name.removeprefix("text_model."): value for name, value in tensors.items()}
        return named | {"text_model.embeddings.position_ids": torch.arange(20)[None]}

    rewritten(folder / "vae" / "diffusion_pytorch_model.safetensors", old_autoencoder)
    rewritten(folder / "text_encoder" / "model.safetensors", old_text)
    assert same_as_before(folder, miniatures(MINIATURES[-1])[2], tmp_path / "run")


def test_names_without_a_prefix_are_read_too(folder, miniatures, tmp_path):
    rewritten(
        folder / "text_encoder" / "model.safetensors",
        lambda tensors: {name.removeprefix("text_model."): value for name, value in tensors.items()},
    )
    assert same_as_before(folder, miniatures(MINIATURES[-1])[2], tmp_path / "run")


def test_linear_projections_stored_as_convolutions_fit(folder, miniatures, tmp_path):
    """And the other way round: the configuration says which they are, the numbers are the same."""
    rewritten(
        folder / "unet" / "diffusion_pytorch_model.safetensors",
        lambda tensors: {name: value[:, :, 0, 0] if ".proj_in.weight" in name else value for name, value in tensors.items()},
    )
    assert same_as_before(folder, miniatures(MINIATURES[-1])[2], tmp_path / "run")


def split(path: Path, pieces: int) -> None:
    """A safetensors file as several and an index, as diffusers and transformers write large ones."""
    tensors, weight_map = load_file(path), {}
    for piece in range(pieces):
        name = f"{path.stem}-{piece + 1:05d}-of-{pieces:05d}.safetensors"
        part = dict(list(tensors.items())[piece::pieces])
        save_file(part, path.with_name(name))
        weight_map |= dict.fromkeys(part, name)
    path.with_name(f"{path.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    path.unlink()


def test_sharded_weights_are_read(folder, miniatures, tmp_path):
    for path in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        split(folder / path, 3)
    assert same_as_before(folder, miniatures(MINIATURES[-1])[2], tmp_path / "run")


def test_files_elsewhere_are_read_through_links(folder, miniatures, tmp_path):
    """As in the hub's cache, where every file of a snapshot is a link."""
    for number, path in enumerate([path for path in folder.rglob("*") if path.is_file()]):
        (tmp_path / "blobs").mkdir(exist_ok=True)
        path.rename(tmp_path / "blobs" / str(number))
        path.symlink_to(tmp_path / "blobs" / str(number))
    assert same_as_before(folder, miniatures(MINIATURES[-1])[2], tmp_path / "run")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_and_kept_on_disk(folder, miniatures, tmp_path, kind):
    """The run's file is as small as what was read; in memory it is float32, each number what half precision made of it."""
    model = miniatures(MINIATURES[-1])[2]
    for path in folder.rglob("*.safetensors"):
        rewritten(path, lambda tensors: {name: value.to(kind) for name, value in tensors.items()})
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    import_folder(folder, tmp_path / "run")
    state, stored = LatentDiffusion.load(tmp_path / "run").state_dict(), Tensors(tmp_path / "run" / "model.safetensors")
    different = [name for name in stored if stored[name].dtype != kind]
    assert sorted(different) == ["autoencoder.scale", CLOCK]
    for name, value in model.state_dict().items():
        assert state[name].dtype == torch.float32
        if name not in different:
            assert torch.equal(state[name], value.to(kind).float())
    assert torch.allclose(state[CLOCK], model.unet.time[0].weight, atol=2e-2)


def test_the_older_files_of_a_tokenizer_are_read(folder, miniatures, tmp_path):
    """vocab.json, merges.txt and special_tokens_map.json, as on the hub; newer tools write one tokenizer.json."""
    model = miniatures(MINIATURES[-1])[2]
    assert not (folder / "tokenizer" / "vocab.json").exists()
    for path in (folder / "tokenizer").iterdir():
        path.unlink()
    model.tokenizer.save(folder / "tokenizer")
    (folder / "tokenizer" / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "!</w>"}}))
    import_folder(folder, tmp_path / "run")
    again = LatentDiffusion.load(tmp_path / "run")
    assert again.tokenizer.vocabulary == model.tokenizer.vocabulary and again.tokenizer.merges == model.tokenizer.merges
    assert again.config.text.pad == model.tokenizer.vocabulary["!</w>"]


@pytest.mark.parametrize("name", [*reference.PUBLISHED, *reference.SIBLINGS])
def test_the_published_configurations_are_read(tmp_path, name):
    """Field by field as they stand in the folders of 1.x and 2.x, whose scale factor is diffusers' default."""
    like, changes = reference.SIBLINGS.get(name, (name, {}))
    for path, document in reference.PUBLISHED[like].items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(json.dumps(document | changes.get(path, {})))
    words = Tokenizer.train(reference.CAPTIONS, 540)
    words.save(tmp_path / "tokenizer")
    config, tokenizer, scale, _ = translated(tmp_path)
    assert scale == 0.18215 and tokenizer.vocabulary == words.vocabulary
    real = SD21 if like == "SD 2.1" else SD15  # what is the default there stands in full in the file
    pad = words.vocabulary["<|endoftext|>"] if real.text.pad is None else real.text.pad
    assert config == dataclasses.replace(
        real,
        text=dataclasses.replace(real.text, feed_forward=4 * real.text.width, pad=pad),
        unet=dataclasses.replace(real.unet, in_channels=9 if "inpainting" in name else 4),
        image_size=768 if name in ("SD 2.0", "SD 2.1") else 512,
        prediction="v" if name in ("SD 2.0", "SD 2.1") else "epsilon",
    )


# What is refused


def without(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink()


def setting(path: str, **fields) -> Callable[[Path], None]:
    return lambda folder: reference.change(folder / path, **fields)


def pickled(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")


def truncated(folder: Path) -> None:
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def reshaped(folder: Path) -> None:
    rewritten(
        folder / "unet" / "diffusion_pytorch_model.safetensors",
        lambda tensors: tensors | {"conv_in.weight": torch.zeros(32, 4, 3, 3)},
    )


def lacking(folder: Path) -> None:
    rewritten(
        folder / "text_encoder" / "model.safetensors",
        lambda tensors: {name: value for name, value in tensors.items() if "layers.1.mlp.fc1.bias" not in name},
    )


def overfull(folder: Path) -> None:
    rewritten(folder / "vae" / "diffusion_pytorch_model.safetensors", lambda tensors: tensors | {"surplus": torch.zeros(1)})


def whole_numbers(folder: Path) -> None:
    rewritten(
        folder / "unet" / "diffusion_pytorch_model.safetensors",
        lambda tensors: tensors | {"conv_in.bias": tensors["conv_in.bias"].to(torch.int8)},
    )


def lying_index(folder: Path) -> None:
    split(folder / "unet" / "diffusion_pytorch_model.safetensors", 2)
    reference.change(
        folder / "unet" / "diffusion_pytorch_model.safetensors.index.json",
        weight_map={"a": "diffusion_pytorch_model-00001-of-00002.safetensors"},
    )


def climbing_index(folder: Path) -> None:
    split(folder / "unet" / "diffusion_pytorch_model.safetensors", 2)
    reference.change(folder / "unet" / "diffusion_pytorch_model.safetensors.index.json", weight_map={"a": "../../secret"})


ODD = (None, True, 0, -1, 3, 1e300, "x", [], ["x"], [1, 2], {}, {"a": 1})


@pytest.mark.parametrize("path", ["model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
                                  "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"])  # fmt: skip
def test_odd_values_are_read_or_refused_never_worse(folder, path):
    """Whatever stands in a field, the answer is a configuration or a ValueError of one line."""
    document, refused = json.loads((folder / path).read_text()), 0
    for name in [*document, "added_tokens_decoder", "pad_token", "clip_sample"]:
        for value in ODD:
            (folder / path).write_text(json.dumps(document | {name: value}))
            try:
                translated(folder)
            except ValueError as error:
                refused += 1
                assert "\n" not in str(error), error
    assert refused > 5


def test_a_schedule_of_ones_own_comes_and_goes(folder, tmp_path):
    """Its ends, to the last digit, and its zero terminal SNR are read, and written out again."""
    file = Path("scheduler") / "scheduler_config.json"
    own = {"beta_start": 0.0017, "beta_end": 0.031, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    reference.change(folder / file, **own)
    import_folder(folder, tmp_path / "run")
    config = LatentDiffusion.load(tmp_path / "run").config
    assert (config.betas, config.zero_terminal_snr, config.prediction) == ((0.0017, 0.031), True, "v")
    export_run(tmp_path / "run", tmp_path / "out")
    assert read_json(tmp_path / "out" / file).items() >= own.items()


def test_full_precision_is_preferred(folder, miniatures, tmp_path):
    """Where both are there, the file in half precision is not even opened."""
    for path in folder.rglob("*.safetensors"):
        path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")).write_bytes(b"broken")
    assert same_as_before(folder, miniatures(MINIATURES[-1])[2], tmp_path / "run")


@pytest.mark.parametrize("newer", [False, True])
def test_which_file_says_what_fills(folder, newer):
    """special_tokens_map.json over tokenizer_config.json, as transformers does, unless the latter is of the newer kind."""
    added = {"added_tokens_decoder": {"0": {"content": "!"}}} if newer else {}
    reference.change(folder / "tokenizer" / "tokenizer_config.json", pad_token="!", **added)
    (folder / "tokenizer" / "special_tokens_map.json").write_text('{"pad_token": "<|endoftext|>"}')
    config, tokenizer, _, _ = translated(folder)
    assert config.text.pad == (0 if newer else tokenizer.vocabulary["<|endoftext|>"])


def test_what_older_tools_look_for_is_in_the_files(model, tmp_path):
    """transformers 4 wants the word "pt" in every file, and its text encoder's names to begin with text_model."""
    model.save(tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "sd")
    for path in (tmp_path / "sd").rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}, path
            assert path.parent.name != "text_encoder" or all(name.startswith("text_model.") for name in Tensors(path))


@torch.no_grad()
def test_a_condition_goes_with_its_prompt_whatever_the_batch(miniatures):
    model = miniatures("inpainting")[2]
    condition = normal(3, *model.condition_shape, seed=5)
    options = {"steps": 2, "guidance": 2.0, "seed": 1}
    whole = model.generate(PROMPTS, condition=condition, **options)
    assert_same(model.generate(PROMPTS, condition=condition, batch=2, **options), whole)
    assert (model.generate(PROMPTS, condition=condition.flip(0), **options) - whole).abs().max() > 0.01


def test_only_ddim_ends_elsewhere_than_at_clean_data(miniatures):
    model = miniatures(MINIATURES[-1])[2]
    assert model.config.grid.end == 1
    assert {sampler: model.times(5, sampler)[-1].item() for sampler in SAMPLERS} == dict.fromkeys(SAMPLERS, 0) | {"ddim": 1}
    assert [sampler for sampler in SAMPLERS if model.times(5, sampler)[-2] > 2] == ["dpmpp"]


WAYS = [("linear", True, "v"), ("scaled_linear", False, "x0"), ("cosine", False, "epsilon"), ("cosine", False, "v")]


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "zero_snr", "prediction"), WAYS)
def test_every_schedule_leaves_as_it_is(model, tmp_path, schedule, zero_snr, prediction):
    """Exported with any schedule and prediction, a model draws the same by DDIM."""
    model = copy.deepcopy(model)
    config = dataclasses.replace(model.config, schedule=schedule, zero_terminal_snr=zero_snr, prediction=prediction)
    model.config, model.schedule = config, schedule_of(config)
    model.save(tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "sd")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "sd")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    ours = model.generate(PROMPTS, guidance=2.0, steps=10, sampler="ddim", seed=6)
    assert_same(ours, drawn_by(pipeline, model, 2.0, 10, seed=6))


def learned(folder: Path) -> None:
    (folder / "tokenizer" / "added_tokens.json").write_text('{"<cat-toy>": 599}')


UNET, VAE, TEXT = "unet/config.json", "vae/config.json", "text_encoder/config.json"
SCHEDULER, INDEX = "scheduler/scheduler_config.json", "model_index.json"
REFUSED = {
    "no index": (without(INDEX), ["model_index.json", "does not exist"]),
    "no unet configuration": (without(UNET), ["unet/config.json", "does not exist"]),
    "no scheduler": (without(SCHEDULER), ["scheduler_config.json", "does not exist"]),
    "no weights": (without("vae/diffusion_pytorch_model.safetensors"), ["vae", "diffusion_pytorch_model.safetensors"]),
    "no tokenizer": (without("tokenizer/tokenizer.json"), ["vocab.json", "does not exist"]),
    "XL": (setting(INDEX, _class_name="StableDiffusionXLPipeline"), ["StableDiffusionXLPipeline", "Stable Diffusion 1 and 2"]),
    "3": (setting(INDEX, _class_name="StableDiffusion3Pipeline"), ["StableDiffusion3Pipeline"]),
    "Flux": (setting(INDEX, _class_name="FluxPipeline"), ["FluxPipeline"]),
    "XL's U-Net": (setting(UNET, addition_embed_type="text_time"), [UNET, "addition_embed_type='text_time'"]),
    "another network": (setting(UNET, _class_name="Transformer2DModel"), [UNET, "Transformer2DModel"]),
    "another block": (
        setting(UNET, down_block_types=["DownBlock2D", "SimpleCrossAttnDownBlock2D"]),
        ["down_block_types", "SimpleCrossAttnDownBlock2D"],
    ),
    "no mirror": (setting(UNET, up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"]), ["up_block_types", "mirror"]),
    "another activation": (setting(UNET, act_fn="gelu"), ["act_fn='gelu'", "'silu'"]),
    "sines first": (setting(UNET, flip_sin_to_cos=False), ["flip_sin_to_cos=False"]),
    "uneven levels": (setting(UNET, layers_per_block=[1, 2]), ["layers_per_block=[1, 2]"]),
    "no size": (setting(UNET, sample_size=None), ["sample_size=None"]),
    "a rectangle": (setting(UNET, sample_size=[8, 16]), ["sample_size=[8, 16]"]),
    "a text for a number": (setting(UNET, in_channels="three"), [UNET, "in_channels='three'"]),
    "impossible heads": (setting(UNET, attention_head_dim=[8, 7]), ["heads=7", "64"]),
    "a shifted autoencoder": (setting(VAE, shift_factor=0.1), [VAE, "shift_factor=0.1"]),
    "no 1×1 convolutions": (setting(VAE, use_quant_conv=False), ["use_quant_conv=False"]),
    "a wider text": (setting(UNET, cross_attention_dim=40), ["context_width=40", "text.width=32"]),
    "another text encoder": (setting(TEXT, model_type="t5"), [TEXT, "model_type='t5'"]),
    "another gate": (setting(TEXT, hidden_act="relu"), ["hidden_act='relu'", "quick_gelu"]),
    "too few tokens": (setting(TEXT, vocab_size=100), ["pad=53", "0..99"]),
    "a padding that is no token": (setting("tokenizer/tokenizer_config.json", pad_token="[PAD]"), ["'[PAD]'"]),
    "shorter prompts": (setting("tokenizer/tokenizer_config.json", model_max_length=10), ["model_max_length=10", "20"]),
    "another sampler": (setting(SCHEDULER, _class_name="FlowMatchEulerDiscreteScheduler"), ["FlowMatchEulerDiscreteScheduler"]),
    "betas one by one": (setting(SCHEDULER, trained_betas=[0.1, 0.2]), ["trained_betas=[0.1, 0.2]"]),
    "another schedule": (setting(SCHEDULER, beta_schedule="sigmoid"), ["beta_schedule='sigmoid'"]),
    "another prediction": (setting(SCHEDULER, prediction_type="flow_prediction"), ["flow_prediction", "v_prediction"]),
    "impossible betas": (setting(SCHEDULER, beta_end=1.5), ["betas=(0.00085, 1.5)"]),
    "a zero that is not known": (setting(SCHEDULER, strange=0), ["strange=0"]),
    "learned words": (learned, ["'<cat-toy>'"]),
    "learned words in the one file": (
        setting("tokenizer/tokenizer.json", added_tokens=[{"id": 599, "content": "<cat-toy>"}]),
        ["'<cat-toy>'"],
    ),
    "upper case": (setting("tokenizer/tokenizer_config.json", do_lower_case=False), ["do_lower_case=False"]),
    "another tokenizer": (setting("tokenizer/tokenizer_config.json", tokenizer_class="BertTokenizer"), ["BertTokenizer"]),
    "an unknown option": (setting(SCHEDULER, use_magic="yes"), ["use_magic='yes'"]),
    "a pickle": (pickled, ["diffusion_pytorch_model.bin", "pickle", "safetensors"]),
    "truncated": (truncated, ["no whole safetensors file"]),
    "another shape": (reshaped, ["conv_in.weight", "(32, 4, 3, 3)", "(32, 3, 3, 3)"]),
    "a tensor missing": (lacking, ["encoder.layers.1.mlp.fc1.bias"]),
    "a tensor too many": (overfull, ["'surplus'"]),
    "whole numbers": (whole_numbers, ["conv_in.bias", "I8"]),
    "an index that lies": (lying_index, ["index.json", "disagree"]),
    "an index that climbs": (climbing_index, ["index.json", "weight_map"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_opened_is_refused_by_name(folder, tmp_path, capsys, name):
    """One line that names the file or the value, exit code 2, and no run."""
    spoil, named = REFUSED[name]
    spoil(folder)
    assert main(["import", str(folder), str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and all(word in said for word in named), said
    assert {path.name for path in tmp_path.iterdir()} == {"sd"}


CANNOT_LEAVE = {
    "a flow": ({"prediction": "flow"}, ["prediction='flow'"]),
    "no attention in the middle": ({"unet": {"middle_attention": False}}, ["unet.middle_attention=False"]),
    "a text encoder that looks ahead": ({"text": {"causal": False}}, ["text.causal=False"]),
    "an embedding": ({"unet": {"extra_width": 7}}, ["unet.extra_width=7"]),
    "an odd condition": ({"unet": {"in_channels": 5}}, ["unet.in_channels=5"]),
}


@pytest.mark.parametrize("name", CANNOT_LEAVE)
def test_what_diffusers_has_no_word_for_is_refused(model, tmp_path, capsys, name):
    change, named = CANNOT_LEAVE[name]
    parts = {key: dataclasses.replace(getattr(model.config, key), **value) if isinstance(value, dict) else value
             for key, value in change.items()}  # fmt: skip
    LatentDiffusion(dataclasses.replace(model.config, **parts), model.tokenizer).save(tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "sd")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and all(word in said for word in named), said
    assert not (tmp_path / "sd").exists()


def test_nothing_is_overwritten(folder, trained, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    assert main(["import", str(folder), str(tmp_path / "there")]) == 2
    assert main(["export", str(trained), str(tmp_path / "there")]) == 2
    assert capsys.readouterr().err.count("exists: name a folder that does not") == 2
    assert not list((tmp_path / "there").iterdir())


def test_a_single_file_is_no_folder(folder, tmp_path, capsys):
    assert main(["import", str(folder / "unet" / "diffusion_pytorch_model.safetensors"), str(tmp_path / "run")]) == 2
    assert "no folder in diffusers' layout" in capsys.readouterr().err
    assert main(["import", str(folder / "v1-5.ckpt"), str(tmp_path / "run")]) == 2
    assert "v1-5.ckpt is a pickle" in capsys.readouterr().err


def test_the_commands_say_what_they_did(folder, tmp_path, capsys):
    """And an imported run can be drawn from at once."""
    reference.change(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    assert main(["import", str(folder), str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "PNDMScheduler" in said and "DPM-Solver++" in said and "safety_checker is left out" in said and "32×32" in said
    assert main(["sample", str(tmp_path / "run"), "a red cat", "--steps", "3"]) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert "StableDiffusionPipeline.from_pretrained" in capsys.readouterr().out


# The real size


@pytest.mark.slow
@torch.no_grad()
def test_the_unet_of_stable_diffusion_at_full_size(tmp_path):
    """859,520,964 parameters, and one forward pass as diffusers computes it."""
    theirs = reference.unet(size=64, block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8, cross_attention_dim=768)
    fill_at_random(theirs)
    theirs.save_config(tmp_path)
    config, size = read_unet(Fields(tmp_path / "config.json"))
    assert size == 64 and config.heads == (8, 8, 8, 8) and config.attention == (True, True, True, False)
    with without_memory():
        ours = UNet(config)
    assert count(theirs) == count(ours) == 859_520_964
    tensors = theirs.state_dict()
    ours.load_state_dict({name: tensors[renamed(name, NAMES)] for name in ours.state_dict()}, assign=True)  # one copy for both
    x, t, context = normal(1, 4, 32, 32), torch.tensor([600]), normal(1, 77, 768, seed=2)
    assert_same(ours(x, t, context), theirs(x, t, context).sample)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
