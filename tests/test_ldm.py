"""The complete model: sampling does not depend on the batch, saving loses nothing, bad input is named."""

import copy
import dataclasses
import itertools
import json
import pickle
from pathlib import Path

import pytest
import torch
from conftest import PROMPTS, TINY, without_zeros

from minildm.ddpm import spread_times
from minildm.ldm import LatentDiffusion
from minildm.samplers import SAMPLERS
from minildm.schedule import NoiseSchedule
from minildm.unet import UNet


def test_the_largest_seed_draws_what_its_last_32_bits_draw(model: LatentDiffusion) -> None:
    largest = 2**63 - 2
    seeds = largest, largest % 2**32, largest % 2**31
    image, same, other = (model.generate(["a red circle"], steps=2, seed=seed) for seed in seeds)
    assert torch.equal(image, same)
    assert (image - other).abs().max() > 1e-4


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_prompt_gives_the_same_image_alone_and_in_a_batch(model: LatentDiffusion, sampler: str, guidance: float) -> None:
    together = model.generate(PROMPTS, sampler=sampler, steps=5, guidance=guidance, seed=7)
    for place, prompt in enumerate(PROMPTS):
        alone = model.generate([prompt], sampler=sampler, steps=5, guidance=guidance, seed=7 + place)
        assert (alone[0] - together[place]).abs().max() < 1e-5


def test_same_seed_same_image_other_seed_or_prompt_another(model: LatentDiffusion) -> None:
    first, again = (model.generate(["a red circle"], steps=4, seed=3) for _ in range(2))
    assert torch.equal(first, again)
    assert (first - model.generate(["a red circle"], steps=4, seed=4)).abs().max() > 1e-3
    assert (first - model.generate(["two green crosses"], steps=4, seed=3)).abs().max() > 1e-4


def test_pictures_drawn_in_bf16_are_those_of_float32_but_for_a_shade(model: LatentDiffusion) -> None:
    """bf16 has 8 significant bits; twenty steps of it stray by less than a fiftieth of what other noise changes."""
    plain, other = (model.generate(PROMPTS, seed=seed) for seed in (3, 100))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.generate(PROMPTS, seed=3)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, plain)
    assert (rounded - plain).square().mean().sqrt() < 0.02 * (other - plain).square().mean().sqrt()


def test_many_prompts_are_drawn_some_at_a_time(model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in memory at once is bounded, and where a batch ends shows in no image."""
    sizes, original = [], UNet.forward
    monkeypatch.setattr(
        UNet, "forward", lambda self, x, *args, **options: (sizes.append(len(x)), original(self, x, *args, **options))[1]
    )
    prompts = [PROMPTS[place % 4] for place in range(11)]
    together = model.generate(prompts, steps=2, seed=7)
    assert max(sizes) == 22  # with and without the prompt, for guidance
    sizes.clear()
    for batch in (1, 4, 11):
        parts = model.generate(prompts, steps=2, seed=7, batch=batch)
        assert (parts - together).abs().max() < 1e-4  # other sizes, other orders of summing; another noise would differ by 1
    sizes.clear()
    model.generate(prompts, steps=2, seed=7, batch=4)
    assert max(sizes) == 8 and len(sizes) == 3 * 2


def test_what_is_not_asked_for_is_as_documented(model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guidance 3 at all times, twenty steps of DPM-Solver++, seed 0, a hundred at a time; every time alike, no weights."""
    asked = model.generate(PROMPTS[:1], guidance=3.0, guidance_high=1.0, steps=20, sampler="dpmpp", seed=0)
    assert torch.equal(model.generate(PROMPTS[:1]), asked)
    sizes = []
    blank = torch.zeros(3, 32, 32)
    monkeypatch.setattr(
        LatentDiffusion, "_draw", lambda self, denoise, count, *_: (sizes.append(count), blank.expand(count, -1, -1, -1))[1]
    )
    assert model.generate([""] * 230).shape == (230, 3, 32, 32) and sizes == [100, 100, 30]
    latents, tokens = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1)), model.tokens(PROMPTS)
    losses = [
        model.loss(latents, tokens, generator=torch.Generator().manual_seed(0), **options).item()
        for options in ({}, {"time_power": 1.0, "min_snr": None}, {"time_power": 2.0}, {"min_snr": 1.0})
    ]
    assert losses[0] == losses[1] and losses[0] not in losses[2:]


@pytest.mark.slow
def test_ten_thousand_prompts_in_one_call(model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, original = [], UNet.forward
    monkeypatch.setattr(
        UNet, "forward", lambda self, x, *args, **options: (sizes.append(len(x)), original(self, x, *args, **options))[1]
    )
    images = model.generate([f"picture {place}" for place in range(10_000)], steps=1, guidance=1.0)
    assert images.shape == (10_000, 3, 32, 32) and images.isfinite().all() and max(sizes) <= 100
    assert images[:50].flatten(1).unique(dim=0).shape[0] == 50  # each from noise of its own


def test_guidance_is_linear_between_null_and_conditional(model: LatentDiffusion) -> None:
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([50, 50])
    prompts = PROMPTS[:2]
    null, cond, triple = (model.denoiser(prompts, w)(x, t) for w in (0.0, 1.0, 3.0))
    assert torch.allclose(triple, null + 3 * (cond - null), atol=1e-4)
    assert torch.allclose(null, model.denoiser(["", ""], 1.0)(x, t), atol=1e-5), "the null condition is the empty prompt"
    assert (cond - null).abs().max() > 1e-3


@pytest.mark.parametrize("high", [0.0, 0.5])
def test_a_condition_is_read_where_guidance_is_left_out_too(high: float) -> None:
    model = without_zeros(dataclasses.replace(TINY, unet=dataclasses.replace(TINY.unet, in_channels=7)))
    condition = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def drawn(condition: torch.Tensor, **options: float) -> torch.Tensor:
        return model.generate(PROMPTS[:2], steps=4, condition=condition, **options)

    late = drawn(condition, guidance=3.0, guidance_high=high)
    assert (late - drawn(-condition, guidance=3.0, guidance_high=high)).abs().max() > 1e-4
    assert torch.allclose(late, drawn(condition, guidance=1.0), atol=1e-5) == (high == 0)


def test_save_and_load_lose_nothing(model: LatentDiffusion, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = LatentDiffusion.load(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded.generate(PROMPTS, steps=3), model.generate(PROMPTS, steps=3))


def test_loading_takes_its_memory_from_the_weights_not_from_the_configuration(model: LatentDiffusion, tmp_path: Path) -> None:
    """A configuration that asks for petabytes is refused, because no such weights are there."""
    model.save(tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    document["model"]["text"]["vocabulary"] = 2**40
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="does not fit"):
        LatentDiffusion.load(tmp_path)


def test_a_loaded_model_can_be_trained_on(model: LatentDiffusion, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = LatentDiffusion.load(tmp_path).train()
    loss = loaded.loss(torch.randn(4, 4, 8, 8), loaded.tokens(PROMPTS), generator=torch.Generator().manual_seed(0))
    loss.backward()
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in loaded.parameters())
    assert loaded.unet.state_dict().keys() and next(loaded.unet.parameters()).grad is not None


def test_edges_of_what_is_allowed(model: LatentDiffusion, tmp_path: Path) -> None:
    """Guidance 0 is unconditional; folders are made with all above them; the highest token lies below the vocabulary's size."""
    assert torch.allclose(
        model.generate(PROMPTS[:1], guidance=0.0, steps=2), model.generate([""], guidance=1.0, steps=2), atol=1e-4
    )
    folder = tmp_path / "above" / "below"
    model.save(folder)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    size = model.config.text.vocabulary
    (folder / "vocab.json").write_text(json.dumps(vocabulary | {"one more": size}))
    with pytest.raises(ValueError, match=f"has token {size}, the text encoder knows {size}"):
        LatentDiffusion.load(folder)


def test_pickles_are_refused(model: LatentDiffusion, tmp_path: Path) -> None:
    model.save(tmp_path)

    class Bomb:
        def __reduce__(self):
            return (Path(tmp_path / "exploded").touch, ())

    for offer in (lambda path: torch.save(model.state_dict(), path), lambda path: path.write_bytes(pickle.dumps(Bomb()))):
        offer(tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match="no whole safetensors file"):
            LatentDiffusion.load(tmp_path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (2, "layout 2, this minildm reads 1: update"),
        ("2", "'2', not 1: is .* a run"),
        (1.5, "1.5, not 1"),
        (0, "0, not 1"),
        (None, "None"),
    ],
)
def test_folders_have_layout_1_and_others_are_refused(model: LatentDiffusion, tmp_path: Path, layout, message: str) -> None:
    model.save(tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    assert document["layout"] == 1
    (tmp_path / "config.json").write_text(json.dumps(document | {"layout": layout}))
    with pytest.raises(ValueError, match=message):
        LatentDiffusion.load(tmp_path)


def test_damaged_folders_are_named(model: LatentDiffusion, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json does not exist"):
        LatentDiffusion.load(tmp_path)
    model.save(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="no whole safetensors"):
        LatentDiffusion.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="--resume"):
        LatentDiffusion.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    document = json.loads((tmp_path / "config.json").read_text())
    document["model"]["unet"]["widths"] = [16, 64]
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="does not fit"):
        LatentDiffusion.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(document | {"layout": 99}))
    with pytest.raises(ValueError, match="layout 99"):
        LatentDiffusion.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "magic"}, "sampler 'magic' is unknown"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 101}, "steps=101"),
        ({"guidance": -1.0}, r"guidance=-1\.0"),
        ({"guidance": float("nan")}, "guidance=nan"),
        ({"guidance_high": -0.1}, r"guidance_high=-0\.1"),
        ({"guidance_high": 1.5}, r"guidance_high=1\.5"),
        ({"guidance_high": float("nan")}, "guidance_high=nan"),
        ({"prompts": []}, "no prompt"),
        ({"batch": 0}, "batch=0"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**63 - 1}, "seed=9223372036854775807"),
    ],
)
def test_bad_requests_are_named(model: LatentDiffusion, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(**({"prompts": ["a red circle"]} | options))


def test_loss_of_a_perfect_network_is_zero_and_depends_on_the_generator(model: LatentDiffusion) -> None:
    latents, tokens = torch.randn(4, 4, 8, 8), model.tokens(PROMPTS)
    losses = [model.loss(latents, tokens, generator=torch.Generator().manual_seed(seed)).item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def copy_with_scale(model: LatentDiffusion, scale: float) -> LatentDiffusion:
    """The same weights under another scale factor: with 1, a division by it that is missing would go unnoticed."""
    tokenizer, model = model.tokenizer, copy.deepcopy(model)
    model.autoencoder.scale.fill_(scale)
    model.tokenizer = tokenizer
    return model


@pytest.mark.equation("16.7")
def test_the_loss_is_the_squared_error_of_what_is_predicted_from_noisy_latents_and_text(model: LatentDiffusion) -> None:
    """By hand, one latent after the other: its time, its frame, its velocity, the network asked alone."""
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    tokens = model.tokens(PROMPTS)
    with torch.no_grad():
        loss = model.loss(latents, tokens, generator=torch.Generator().manual_seed(5), time_power=0.75)
        generator = torch.Generator().manual_seed(5)
        times = spread_times(4, 100, generator, 0.75)
        noises, by_hand = torch.randn(latents.shape, generator=generator), []
        for z, noise, t, row in zip(latents, noises, times, tokens, strict=True):
            a, s = float(model.schedule.alpha_bar[t]) ** 0.5, (1 - float(model.schedule.alpha_bar[t])) ** 0.5
            said = model.unet((a * z + s * noise)[None], t[None], model.text(row[None]))[0]
            by_hand.append((said - (a * noise - s * z)).square().mean())
    assert loss.item() == pytest.approx(torch.stack(by_hand).mean().item(), rel=1e-4)
    assert loss.ndim == 0


@pytest.mark.equation("16.11")
@pytest.mark.parametrize("high", [1.0, 0.67, 0.5, 0.0])
def test_a_picture_is_the_decoders_of_where_the_sampler_ends(model: LatentDiffusion, high: float) -> None:
    """DDIM and guidance, plain above a time, written out, each picture alone, latents divided by the scale factor before the
    decoder's layers."""
    model, w, times = copy_with_scale(model, 0.7), 2.5, [100, 67, 33, 0]
    drawn = model.generate(PROMPTS[:2], guidance=w, guidance_high=high, steps=3, sampler="ddim", seed=11)
    for place, prompt in enumerate(PROMPTS[:2]):
        z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(11 + place))
        for t, s in itertools.pairwise(times):
            rates = (model.schedule.signal, model.schedule.noise)
            a, n, a_s, n_s = (float(rate(torch.tensor(time))) for time in (t, s) for rate in rates)
            with torch.no_grad():
                null, cond = (model.unet(z, torch.tensor([t]), model.text(model.tokens([text]))) for text in ("", prompt))
            v = null + w * (cond - null) if t <= 100 * high else cond
            x0, noise = a * z - n * v, n * z + a * v
            z = a_s * x0 + n_s * noise
        with torch.no_grad():
            by_hand = model.autoencoder.decoder(model.autoencoder.post_quant(z / 0.7)).clamp(-1, 1)
        assert torch.allclose(drawn[place], by_hand[0], atol=2e-4)


def test_a_model_without_tokenizer_says_so() -> None:
    with pytest.raises(ValueError, match="no tokenizer"):
        LatentDiffusion(TINY).generate(["a red circle"])


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_betas_and_padding_of_the_configuration_are_used(model: LatentDiffusion, schedule: str) -> None:
    """Other ends of the schedule, and another token to fill with."""
    config = dataclasses.replace(TINY, schedule=schedule, betas=(0.002, 0.03), text=dataclasses.replace(TINY.text, pad=7))
    other = LatentDiffusion(config, model.tokenizer)
    assert torch.equal(other.schedule.beta, getattr(NoiseSchedule, schedule)(TINY.T, 0.002, 0.03).beta)
    assert not torch.equal(other.schedule.beta, getattr(NoiseSchedule, schedule)(TINY.T).beta)
    assert other.tokens([""])[0, 2:].tolist() == [7] * (TINY.text.length - 2)
