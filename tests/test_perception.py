"""The perceptual distance by loops, the critic of patches by what it can see, and what its hinge loss is at best."""

import math

import pytest
import torch
from torch import Tensor, nn

from minildm.autoencoder import Autoencoder, autoencoder_loss
from minildm.config import AutoencoderConfig
from minildm.perception import (
    PatchDiscriminator,
    adaptive_weight,
    hinge_critic_loss,
    hinge_maker_loss,
    perceptual_loss,
    train_sharp,
    unit_channels,
    with_adversary,
)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def maps(seed: int) -> list[Tensor]:
    return [randn(3, 4, 5, 6, seed=seed), randn(3, 7, 2, 3, seed=seed + 100)]


@pytest.mark.equation("15.11")
def test_the_perceptual_distance_is_what_loops_say():
    a, b = maps(0), maps(1)
    wanted = torch.zeros(3, dtype=torch.float64)
    for first, second in zip(a, b, strict=True):
        height, width = first.shape[2:]
        for n in range(3):
            for i in range(height):
                for j in range(width):
                    u, v = first[n, :, i, j], second[n, :, i, j]
                    cosine = (u @ v / (u.square().sum() * v.square().sum()).sqrt()).item()
                    wanted[n] += (2 - 2 * cosine) / (height * width)  # of unit vectors: ‖u − v‖² = 2 − 2 cos
    torch.testing.assert_close(perceptual_loss(a, b), wanted)


def test_the_perceptual_distance_sees_directions_and_not_lengths():
    a, b = maps(0), maps(1)
    distance = perceptual_loss(a, b)
    torch.testing.assert_close(perceptual_loss([5 * each for each in a], [0.1 * each for each in b]), distance)
    torch.testing.assert_close(perceptual_loss(a, a), torch.zeros(3).double())
    torch.testing.assert_close(perceptual_loss(a, [-each for each in a]), torch.full((3,), 8.0).double())
    stretched = [[each.repeat_interleave(2, 2).repeat_interleave(3, 3) for each in some] for some in (a, b)]
    torch.testing.assert_close(perceptual_loss(*stretched), distance)
    nothing = [torch.zeros_like(each) for each in a]
    torch.testing.assert_close(perceptual_loss(nothing, b), torch.full((3,), 2.0).double())
    length = unit_channels(torch.full((1, 1, 1, 1), 1e-10, dtype=torch.float64)).item()
    assert length == pytest.approx(0.5)


def test_maps_that_do_not_fit_are_refused():
    a = maps(0)
    for other in (a[:1], [a[0], a[1][:, :2]], [a[0][:1], a[1]]):
        with pytest.raises(ValueError, match="same shapes"):
            perceptual_loss(a, other)
    with pytest.raises(ValueError, match="at least one"):
        perceptual_loss([], [])


@pytest.mark.parametrize(("layers", "sees"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_a_patch_of_the_size_that_isola_gives(layers, sees):
    torch.manual_seed(0)
    critic = PatchDiscriminator(2, 8, layers).eval()
    x = torch.randn(1, 2, 128, 128, requires_grad=True)
    logits = critic(x)
    middle = logits.shape[2] // 2
    logits[0, 0, middle, middle].backward()
    seen = x.grad.abs().sum((0, 1)) > 0
    assert seen.any(0).sum() == sees and seen.any(1).sum() == sees
    assert logits.shape == (1, 1, 128 // 2**layers - 2, 128 // 2**layers - 2)


def test_the_critic_is_built_and_started_as_published():
    torch.manual_seed(0)
    critic = PatchDiscriminator()
    widths = [(layer.in_channels, layer.out_channels, layer.stride[0]) for layer in critic if isinstance(layer, nn.Conv2d)]
    assert widths == [(3, 64, 2), (64, 128, 2), (128, 256, 2), (256, 512, 1), (512, 1, 1)]
    assert [layer.bias is None for layer in critic if isinstance(layer, nn.Conv2d)] == [False, True, True, True, False]
    kinds = "".join(type(layer).__name__[0] for layer in critic)
    assert kinds == "CLCBLCBLCBLC" and {layer.negative_slope for layer in critic if isinstance(layer, nn.LeakyReLU)} == {0.2}
    weights = torch.cat([layer.weight.flatten() for layer in critic if isinstance(layer, nn.Conv2d)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01) and abs(weights.mean().item()) < 1e-4
    scales = torch.cat([layer.weight for layer in critic if isinstance(layer, nn.BatchNorm2d)])
    assert scales.mean().item() == pytest.approx(1, abs=0.01) and scales.std().item() == pytest.approx(0.02, rel=0.15)
    many = [layer.out_channels for layer in PatchDiscriminator(1, 2, 5) if isinstance(layer, nn.Conv2d)]
    assert many == [2, 4, 8, 16, 16, 16, 1]
    with pytest.raises(ValueError, match="layers=0"):
        PatchDiscriminator(layers=0)


@pytest.mark.equation("15.12")
def test_the_best_critic_under_the_hinge_tells_one_minus_the_total_variation():
    """Real and made patches of four kinds, so and so often: every critic is four numbers, and the best says which is likelier."""
    often = torch.tensor([[6, 2, 1, 1], [1, 3, 4, 2]])
    total_variation = 0.5 * (often[0] - often[1]).abs().sum().item() / 10

    def losses(logits: Tensor) -> tuple[float, float]:
        real, made = (logits.repeat_interleave(each) for each in often)
        return hinge_critic_loss(real, made).item(), hinge_maker_loss(made).item()

    best, against = losses(torch.sign(often[0] - often[1]).double())
    assert best == pytest.approx(1 - total_variation)
    assert against == pytest.approx(-(1 - 3 - 4 - 2) / 10)
    assert losses(torch.zeros(4).double())[0] == pytest.approx(1)
    for seed in range(200):
        assert losses(2 * randn(4, seed=seed))[0] >= best - 1e-12
    real, made = randn(7, seed=1), randn(3, 2, seed=2)
    wanted = sum(max(0, 1 - d) for d in real.tolist()) / 14 + sum(max(0, 1 + d) for d in made.flatten().tolist()) / 12
    assert hinge_critic_loss(real, made).item() == pytest.approx(wanted)
    assert hinge_maker_loss(made).item() == pytest.approx(-sum(made.flatten().tolist()) / 6)


@pytest.mark.equation("15.13")
def test_weighed_adaptively_both_losses_pull_alike():
    layer, x, y = randn(3, 4, seed=3).requires_grad_(), randn(4, seed=4), randn(3, seed=5)
    reconstruction, adversarial = (layer @ x - y).square().sum(), 1e-3 * (layer @ x).sum()
    weight = adaptive_weight(reconstruction, adversarial, layer, delta=0.0)
    assert not weight.requires_grad and weight.shape == ()
    pull, push = (torch.autograd.grad(loss, layer)[0].norm() for loss in (reconstruction, weight * adversarial))
    assert push.item() == pytest.approx(pull.item(), rel=1e-9)
    loud = adaptive_weight((layer @ x - y).square().sum(), 50 * (layer @ x).sum(), layer, delta=0.0)
    assert (50 * loud).item() == pytest.approx((1e-3 * weight).item())
    by_hand = (2 * (layer @ x - y).norm() * x.norm() / (math.sqrt(3) * x.norm() + 0.5)).item()
    found = adaptive_weight((layer @ x - y).square().sum(), (layer @ x).sum(), layer, delta=0.5)
    assert found.item() == pytest.approx(by_hand)
    flat = adaptive_weight((layer @ x - y).square().sum(), 0 * layer.sum(), layer)
    assert flat.item() == pytest.approx(min(1e4, 2 * (layer @ x - y).norm().item() * x.norm().item() / 1e-4))
    assert adaptive_weight(1e3 * layer.sum(), 0 * layer.sum(), layer).item() == 1e4
    assert adaptive_weight(1e3 * layer.sum(), 0 * layer.sum(), layer, most=7.0).item() == 7.0


@pytest.mark.equation("15.14")
def test_the_adversary_comes_late_and_with_its_weight():
    layer = randn(4, seed=6).requires_grad_()
    reconstruction, adversarial = layer.square().sum(), 3 * layer.sum()
    before, after = (with_adversary(reconstruction, adversarial, layer, step, 5, 0.5) for step in (4, 5))
    assert before.item() == pytest.approx(reconstruction.item())
    share = 2 * layer.norm().item() / (6 + 1e-4)
    assert after.item() == pytest.approx(reconstruction.item() + 0.5 * share * adversarial.item())
    (slope,) = torch.autograd.grad(after, layer)
    torch.testing.assert_close(slope, (2 * layer + 0.5 * share * 3).detach())
    whole = with_adversary(layer.square().sum(), 3 * layer.sum(), layer, 9, 0)
    assert whole.item() == pytest.approx(reconstruction.item() + share * adversarial.item())


CONFIG = AutoencoderConfig(image_channels=1, latent_channels=2, widths=(4, 4), groups=1, middle_attention=False)


def sharpened(steps: int, **options) -> tuple[Autoencoder, PatchDiscriminator, list, Tensor]:
    torch.manual_seed(0)
    model, critic = Autoencoder(CONFIG), PatchDiscriminator(1, 4, 1)
    images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    history = train_sharp(
        model, critic, images=images, steps=steps, generator=torch.Generator().manual_seed(2), batch=3, **options
    )
    return model, critic, history, images


def test_before_the_start_the_critic_rests_and_the_model_learns_as_without_it():
    fresh = PatchDiscriminator(1, 4, 1)
    _, critic, history, images = sharpened(3, features=None, start=3)
    torch.manual_seed(0)
    model, fresh = Autoencoder(CONFIG), PatchDiscriminator(1, 4, 1)
    assert all(torch.equal(a, b) for a, b in zip(critic.parameters(), fresh.parameters(), strict=True))
    assert all(math.isnan(adversarial) and math.isnan(doubt) for _, adversarial, doubt in history)
    generator = torch.Generator().manual_seed(2)
    x = images[torch.randint(6, (3,), generator=generator)]
    noise = torch.randn(3, 2, 4, 4, generator=generator)
    assert history[0][0] == pytest.approx(autoencoder_loss(model, x, noise, 1e-3)[1].item(), rel=1e-5)


def test_from_the_start_on_both_learn_and_the_losses_are_those_of_the_formulas():
    model, critic, history, images = sharpened(1, features=None, start=0)
    torch.manual_seed(0)
    model0, critic0 = Autoencoder(CONFIG), PatchDiscriminator(1, 4, 1)
    assert any(not torch.equal(a, b) for a, b in zip(critic.parameters(), critic0.parameters(), strict=True))
    assert not torch.equal(model.decoder[-1].weight, model0.decoder[-1].weight)
    generator = torch.Generator().manual_seed(2)
    x = images[torch.randint(6, (3,), generator=generator)]
    q = model0.encode(x)
    made = model0.decode(q.sample(torch.randn(3, 2, 4, 4, generator=generator)))
    adversarial = hinge_maker_loss(critic0(made))
    assert history[0][1] == pytest.approx(adversarial.item(), rel=1e-4, abs=1e-6)
    assert history[0][2] == pytest.approx(hinge_critic_loss(critic0(x), critic0(made)).item(), rel=1e-4)


def test_what_is_descended_has_every_part_with_its_weight():
    """The first Adam step is lr · sign of the gradient, so a loss that is given by hand must move the model alike."""
    seen = []

    def loss(reconstruction, adversarial, last_layer, step, start, weight):
        seen.append((reconstruction.item(), step, start, weight))
        return with_adversary(reconstruction, adversarial, last_layer, step, start, weight)

    def features(x: Tensor) -> list[Tensor]:
        return [torch.cat([x, x.roll(1, 2)], 1)]

    options = {"start": 1, "adversarial_weight": 0.3}
    plain = sharpened(2, features=None, loss=loss, **options)[0]
    looked = sharpened(1, features=features, perceptual_weight=2.0, loss=loss, **options)[0]
    assert [each[1:] for each in seen] == [(0, 1, 0.3), (1, 1, 0.3), (0, 1, 0.3)]
    torch.manual_seed(0)
    model = Autoencoder(CONFIG)
    images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    generator = torch.Generator().manual_seed(2)
    x = images[torch.randint(6, (3,), generator=generator)]
    q = model.encode(x)
    made = model.decode(q.sample(torch.randn(3, 2, 4, 4, generator=generator)))
    extra = 2 * perceptual_loss(features(x), features(made)).mean().item()
    assert seen[2][0] - seen[0][0] == pytest.approx(extra, rel=1e-3)
    assert not torch.equal(plain.decoder[-1].weight, looked.decoder[-1].weight)
    heavy, light = (sharpened(1, features=None, start=1, kl_weight=weight)[0] for weight in (1e6, 1e-9))
    with torch.no_grad():
        assert heavy.encode(images).kl().mean() < light.encode(images).kl().mean()


def test_training_is_adam_on_both_losses_step_by_step():
    """Written out once more, with the defaults, and compared weight by weight after three steps."""

    def features(x: Tensor) -> list[Tensor]:
        return [torch.cat([x, x.roll(1, 2)], 1)]

    torch.manual_seed(0)
    model, critic = Autoencoder(CONFIG), PatchDiscriminator(1, 4, 1)
    images = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    history = train_sharp(model, critic, features, images, 3, torch.Generator().manual_seed(2), start=1, perceptual_weight=0.7)
    torch.manual_seed(0)
    mine, judge = Autoencoder(CONFIG), PatchDiscriminator(1, 4, 1)
    descent = torch.optim.Adam(mine.parameters(), 5e-4, (0.5, 0.9))
    ascent = torch.optim.Adam(judge.parameters(), 5e-4, (0.5, 0.9))
    generator = torch.Generator().manual_seed(2)
    for step in range(3):
        x = images[torch.randint(20, (16,), generator=generator)]
        noise = torch.randn(16, 2, 4, 4, generator=generator)
        q = mine.encode(x)
        made = mine.decode(q.sample(noise))
        error = autoencoder_loss(mine, x, noise, 0.0)[1] + 0.7 * perceptual_loss(features(x), features(made)).mean()
        total = error + 1e-3 * q.kl().mean() / 64
        if step >= 1:
            against = hinge_maker_loss(judge(made))
            total = total + adaptive_weight(error, against, mine.decoder[-1].weight) * against
        descent.zero_grad()
        total.backward()
        descent.step()
        if step >= 1:
            doubt = hinge_critic_loss(judge(x), judge(made.detach()))
            ascent.zero_grad()
            doubt.backward()
            ascent.step()
            assert history[step][1:] == pytest.approx((against.item(), doubt.item()), rel=1e-3, abs=1e-5)
        assert history[step][0] == pytest.approx(error.item(), rel=1e-4)
    for ours, theirs in ((model, mine), (critic, judge)):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)


def test_nothing_said_is_the_critic_from_the_start_and_every_weight_as_stated():
    """Bit for bit, so that a default that is off by little is off, too."""

    def features(x: Tensor) -> list[Tensor]:
        return [x]

    said = sharpened(3, features=features, start=0, kl_weight=1e-3, perceptual_weight=1.0, adversarial_weight=1.0)
    unsaid = sharpened(3, features=features)
    for one, other in zip(said[:2], unsaid[:2], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
