"""The small world is what it says it is, and its two stages leave a model that can draw."""

import dataclasses

import pytest
import torch

from minildm.config import AutoencoderConfig, TextConfig, UNetConfig
from minildm.engine import shapes, small_world


def test_scenes_hold_one_large_shape_of_the_world_and_each_value_occurs():
    scenes = small_world.draw_scenes(2000, small_world.SEEN, torch.Generator().manual_seed(0))
    columns = dict(zip(shapes.ATTRIBUTES, scenes.T, strict=True))
    assert set(columns["size"].tolist()) == {1} and set(columns["second shape"].tolist()) == {-1}
    assert set(columns["layout"].tolist()) == {1, 2, 3, 4} and set(columns["background"].tolist()) == {0, 1}
    pairs = set(zip(columns["shape"].tolist(), columns["colour"].tolist(), strict=True))
    assert pairs == set(small_world.SEEN) and not pairs & set(small_world.HELD_OUT)
    assert len(small_world.ALL) == 12 and small_world.CHANCE == 1 / 96
    for place in (0, 1):  # shapes, colours: each still occurs in training
        assert {pair[place] for pair in small_world.SEEN} == {pair[place] for pair in small_world.ALL}


def test_captions_say_what_the_pictures_show_and_seeds_decide():
    data, again, other = (small_world.draw_data(50, small_world.ALL, seed) for seed in (1, 1, 2))
    assert torch.equal(data.images, again.images) and not torch.equal(data.images, other.images)
    for caption, scene in zip(data.captions(), data.attributes.tolist(), strict=True):
        assert shapes.SHAPES[scene[2]] in caption and list(shapes.COLOURS)[scene[3]] in caption
        assert shapes.LAYOUTS[scene[0]] in caption and list(shapes.BACKGROUNDS)[scene[6]] in caption


def test_both_stages_run_and_the_model_draws():
    tiny = dict(
        autoencoder=AutoencoderConfig(widths=(16, 16, 16), groups=1),
        unet=UNetConfig(widths=(16, 32), heads=(2, 2), context_width=32, groups=1),
        text=TextConfig(vocabulary=600, length=12, width=32, layers=1, heads=2),
    )
    settings = dataclasses.replace(small_world.with_steps(small_world.SETTINGS, 3, 4, **tiny), batch=8)
    data = small_world.draw_data(64, small_world.SEEN, 0)
    model = small_world.untrained(settings, data.texts)
    latents, losses = small_world.first_stage(model, data, settings)
    assert len(losses) == 3 and latents.mean.shape == (64, 4, 8, 8) and model.autoencoder.scale != 1
    spread = (latents.mean.var() + latents.log_var.exp().mean()).item()
    assert spread == pytest.approx(1, abs=1e-3)
    averaged, losses = small_world.second_stage(model, latents, data, settings)
    assert len(losses) == 4
    images = averaged.generate(["large red circle, top left, white background"] * 2, steps=2)
    assert images.shape == (2, 3, 32, 32) and not torch.equal(images[0], images[1])


def test_the_judge_reads_its_own_world():
    judge = small_world.train_judge_here(12, 32)
    assert not judge.training and len(judge(torch.zeros(2, 3, 32, 32))) == len(shapes.ATTRIBUTES)


def test_the_text_tower_goes_into_the_model_and_stands_still():
    """Its weights are the towers', the second stage leaves them alone and moves the U-Net; the towers know the world's pairs."""
    settings = small_world.with_steps(small_world.SETTINGS, 1, 2)
    data = small_world.draw_data(256, small_world.SEEN, 0)
    model = small_world.untrained(settings, data.texts)
    before = {name: weight.clone() for name, weight in model.text.state_dict().items()}
    clip = small_world.read_as_clip(model, data, 40)
    tower = model.text.state_dict()
    assert any(not torch.equal(tower[name], weight) for name, weight in before.items())
    assert all(torch.equal(tower[name], weight) for name, weight in clip.text.state_dict().items())
    kept = {name: weight.clone() for name, weight in tower.items()}
    unet = {name: weight.clone() for name, weight in model.unet.state_dict().items()}
    latents, _ = small_world.first_stage(model, data, settings)
    averaged, _ = small_world.second_stage(model, latents, data, settings)
    for part in (model, averaged):
        assert all(torch.equal(part.text.state_dict()[name], weight) for name, weight in kept.items())
    assert any(not torch.equal(model.unet.state_dict()[name], weight) for name, weight in unet.items())
    asked = small_world.draw_data(40, small_world.SEEN, 5)
    right, error = small_world.named(clip, model, asked), (1 / 3 * 2 / 3 / 40) ** 0.5
    print(f"named {right:.0%}; who knows the colour alone names one in three, ± {error:.0%}")
    assert right > 1 / 3 + 2 * error


def test_the_seed_decides_the_towers_weights_and_their_batches(monkeypatch):
    data = small_world.draw_data(8, small_world.SEEN, 0)
    model, batches = small_world.untrained(small_world.SETTINGS, data.texts), []
    monkeypatch.setattr(small_world, "train_clip", lambda *given: batches.append(given[-1].initial_seed()))
    first, again, other = (small_world.read_as_clip(model, data, 5, seed).project_text.weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert batches[0] == batches[1] != batches[2]


def test_towers_that_name_the_pair_are_right_and_those_that_name_the_shape_alone_are_not(monkeypatch):
    """Every picture meets the captions of all twelve pairs, where it stands and on its background."""
    data = small_world.draw_data(30, small_world.ALL, 0)
    model, scenes, met = small_world.untrained(small_world.SETTINGS, data.texts), data.attributes.tolist(), []

    def by(choose):
        def zero_shot(clip, picture, tokens):
            met.append(tokens)
            scene = scenes[(len(met) - 1) % len(scenes)]
            assert torch.equal(
                tokens, model.tokens([small_world.caption_of([*scene[:2], *pair, *scene[4:]]) for pair in small_world.ALL])
            )
            return torch.eye(12)[small_world.ALL.index(choose(*scene[2:4]))][None]

        monkeypatch.setattr(small_world, "zero_shot", zero_shot)
        return small_world.named(None, model, data)

    assert by(lambda shape, colour: (shape, colour)) == 1
    assert by(lambda shape, colour: (shape, (colour + 1) % 4)) == 0
    assert (
        by(lambda shape, colour: (small_world.SHAPES[0], colour)) == sum(each[2] == small_world.SHAPES[0] for each in scenes) / 30
    )
