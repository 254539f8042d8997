"""What guidance is taught with: who is told what, which loss is least where, and that training learns it."""

import math

import pytest
import torch
from torch import Tensor

from minildm.conditioning import ClassUNet, NoisyClassifier, dropped_loss, noisy_class_loss, train_labelled
from minildm.config import UNetConfig
from minildm.elbo import Mixture
from minildm.objectives import KINDS
from minildm.schedule import NoiseSchedule, noisy_mixture

SCHEDULE = NoiseSchedule.cosine(100)
CONFIG = UNetConfig(
    widths=(16, 16), attention=(False, False), heads=(2, 2), middle_attention=False, context_width=None, extra_width=6, groups=1
)
GENERATOR = torch.Generator().manual_seed(0)
X0, NOISE = torch.randn(2, 5, 4, 8, 8, generator=GENERATOR, dtype=torch.float64)
T, LABELS = torch.tensor([1, 20, 50, 80, 99]), torch.tensor([0, 2, 1, 2, 0])
A = SCHEDULE.alpha_bar[T].sqrt().view(-1, 1, 1, 1)
SIGMA = (1 - SCHEDULE.alpha_bar[T]).sqrt().view(-1, 1, 1, 1)


def woken(network: torch.nn.Module) -> torch.nn.Module:
    """The network with no layer at zero, so that all of it can be seen in its output."""
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=GENERATOR)
    return network.double()


def test_the_class_reaches_the_prediction_and_only_its_own_row():
    network = woken(ClassUNet(CONFIG, 3))
    assert network.null == 3 and network.rows.weight.shape == (4, 6)
    outputs = [network(X0[:1], T[:1], torch.tensor([label])) for label in range(4)]
    assert outputs[0].shape == (1, 4, 8, 8)
    for first in range(4):
        for second in range(first):
            assert not torch.allclose(outputs[first], outputs[second])
    torch.testing.assert_close(outputs[2], network.unet(X0[:1], T[:1], extra=network.rows.weight[2:3]))
    with torch.no_grad():
        network.rows.weight[3] += 1  # of ∅ alone
    for label in range(3):
        torch.testing.assert_close(network(X0[:1], T[:1], torch.tensor([label])), outputs[label])
    assert not torch.allclose(network(X0[:1], T[:1], torch.tensor([3])), outputs[3])


def test_the_classifier_gives_log_probabilities_that_know_picture_and_time():
    classifier = woken(NoisyClassifier(4, 7, width=16))
    answer = classifier(X0, T)
    assert answer.shape == (5, 7)
    torch.testing.assert_close(answer.exp().sum(1), torch.ones(5, dtype=torch.float64))
    assert not torch.allclose(answer, classifier(X0, T.flip(0))) and not torch.allclose(answer, classifier(NOISE, T))
    for n in range(5):  # no example looks at another
        torch.testing.assert_close(classifier(X0[n : n + 1], T[n : n + 1]), answer[n : n + 1])
    assert classifier(X0[:, :, :4, :6], T).shape == (5, 7)


def test_the_classifier_has_the_sizes_that_it_says():
    """Widths and groups, from the weights; the maps of the coarser level have half the side."""
    sizes = {}
    classifier = NoisyClassifier(3, 4, width=16, groups=4)
    classifier.coarse.register_forward_hook(lambda module, given, out: sizes.update(coarse=tuple(out.shape)))
    classifier.fine.register_forward_hook(lambda module, given, out: sizes.update(fine=tuple(out.shape)))
    classifier(torch.zeros(2, 3, 8, 8), torch.ones(2))
    assert sizes == {"fine": (2, 16, 8, 8), "coarse": (2, 32, 4, 4)}
    assert classifier.fine.norm1.num_groups == 4 and classifier.time[0].in_features == 16
    assert classifier.time[2].out_features == 64
    default = NoisyClassifier(4, 10)
    assert default.first.weight.shape == (32, 4, 3, 3) and default.coarse.norm2.num_groups == 2


@pytest.mark.equation("12.5")
def test_the_noisy_class_loss_of_the_true_classifier_is_minus_its_log_probability():
    """Numbers from a mixture: p(c | x_t) by hand; and on average any other classifier loses more."""
    weights, means, deviations = [0.3, 0.7], [-1.0, 0.8], [0.4, 0.5]
    world = Mixture(
        *(torch.tensor(each, dtype=torch.float64) for each in (weights, means)),
        2 * torch.tensor(deviations, dtype=torch.float64).log(),
    )
    t, x0 = torch.tensor([3, 30, 60, 90]), torch.tensor([-1.2, 0.3, 0.9, -0.5], dtype=torch.float64)
    labels, noise = torch.tensor([0, 1, 1, 0]), torch.tensor([0.5, -1.0, 2.0, 0.1], dtype=torch.float64)

    def truth(x_t: Tensor, t: Tensor) -> Tensor:
        each = [noisy_mixture(SCHEDULE, world, when).log_posterior(one[None]) for one, when in zip(x_t, t, strict=True)]
        return torch.cat(each)

    got = noisy_class_loss(truth, x0, labels, t, noise, SCHEDULE)
    for n in range(4):
        alpha_bar = SCHEDULE.alpha_bar[t[n]].item()
        x_t = math.sqrt(alpha_bar) * x0[n].item() + math.sqrt(1 - alpha_bar) * noise[n].item()
        spreads = [alpha_bar * s**2 + 1 - alpha_bar for s in deviations]
        each = [
            p * math.exp(-((x_t - math.sqrt(alpha_bar) * m) ** 2) / (2 * v)) / math.sqrt(v)
            for p, m, v in zip(weights, means, spreads, strict=True)
        ]
        assert got[n].item() == pytest.approx(-math.log(each[labels[n]] / sum(each)), rel=1e-9)

    count = 4000
    many = torch.bernoulli(torch.full((count,), 0.7), generator=torch.Generator().manual_seed(1)).long()
    numbers = torch.randn(2, count, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x0, when = world.means[many] + torch.exp(0.5 * world.log_vars[many]) * numbers[0], torch.full((count,), 40)
    fast = noisy_mixture(SCHEDULE, world, torch.tensor(40))
    for other in (lambda z: 1.5 * z, lambda z: 0.6 * z, lambda z: z + torch.tensor([0.4, 0.0])):
        losses = [
            noisy_class_loss(each, x0, many, when, numbers[1], SCHEDULE)
            for each in (lambda x, t: fast.log_posterior(x), lambda x, t, o=other: o(fast.log_posterior(x)).log_softmax(1))
        ]
        excess = losses[1] - losses[0]
        assert excess.mean() > 3 * excess.std() / count**0.5


@pytest.mark.equation("12.8")
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_with_dropped_classes(kind):
    """By hand for each example; and its mean over the dice is (1 − p) times the loss with c plus p times that with ∅."""

    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        torch.testing.assert_close(x_t, A * X0 + SIGMA * NOISE)
        assert torch.equal(t, T)
        return 0.1 * labels.view(-1, 1, 1, 1) + 0.5 * x_t

    wanted = {"epsilon": NOISE, "x0": X0, "v": A * NOISE - SIGMA * X0, "flow": NOISE - X0}[kind]

    def by_hand(told: Tensor) -> Tensor:
        answer = 0.1 * told.view(-1, 1, 1, 1) + 0.5 * (A * X0 + SIGMA * NOISE)
        return ((answer.float() - wanted) ** 2).mean((1, 2, 3))

    def loss(dropped: Tensor) -> Tensor:
        return dropped_loss(network, X0, LABELS, dropped, T, NOISE, SCHEDULE, kind, 7)

    always, never = torch.ones(5, dtype=torch.bool), torch.zeros(5, dtype=torch.bool)
    torch.testing.assert_close(loss(never), by_hand(LABELS), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss(always), by_hand(torch.full((5,), 7)), rtol=1e-5, atol=1e-6)
    p, draws = 0.2, torch.rand(3000, 5, generator=torch.Generator().manual_seed(3)) < 0.2
    mean = torch.stack([loss(dropped) for dropped in draws[:300]]).mean(0)
    rate = draws[:300].double().mean(0)  # of the dice as they fell
    torch.testing.assert_close(mean, (1 - rate) * loss(never) + rate * loss(always), rtol=1e-5, atol=1e-5)
    assert ((draws.double().mean(0) - p).abs() < 4 * math.sqrt(p * (1 - p) / 3000)).all()


def spots(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures of two classes: bright on the left or bright on the right."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=generator)
    images = -torch.ones(count, 4, 8, 8)
    images[labels == 0, :, :, :4] = 1.0
    images[labels == 1, :, :, 4:] = 1.0
    return images + 0.1 * torch.randn(images.shape, generator=generator), labels


def class_loss(network, x0, labels, t, noise, chance):
    return dropped_loss(network, x0, labels, chance < 0.3, t, noise, SCHEDULE, "x0", 2)


@pytest.fixture(scope="module")
def learned() -> tuple[torch.nn.Module, torch.nn.Module, list[float]]:
    torch.manual_seed(0)
    network = ClassUNet(CONFIG, 2)
    averaged, losses = train_labelled(network, *spots(500, 1), class_loss, 100, 150, torch.Generator().manual_seed(2))
    return network, averaged, losses


def test_training_learns_the_classes_and_nothing_from_nothing(learned):
    """In pure noise the guess is the class's mean picture, and that of ∅ lies between them."""
    network, averaged, losses = learned
    assert len(losses) == 150 and sum(losses[-20:]) < 0.25 * sum(losses[:20])
    noise = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    for model in (network, averaged):
        with torch.no_grad():
            left, right, null = (model(noise, torch.full((64,), 100), torch.full((64,), label)).mean(0) for label in range(3))
        assert left[:, :, :4].mean() > 0.45 and left[:, :, 4:].mean() < -0.45
        assert right[:, :, 4:].mean() > 0.45 and right[:, :, :4].mean() < -0.45
        for half, first, second in ((slice(0, 4), left, right), (slice(4, 8), right, left)):
            bright, dark, between = (picture[:, :, half].mean() for picture in (first, second, null))
            assert dark + 0.15 < between < bright - 0.15


def test_training_averages_and_repeats_itself(learned):
    network, averaged, losses = learned
    assert averaged is not network
    assert any(not torch.equal(a, b) for a, b in zip(network.parameters(), averaged.parameters(), strict=True))
    torch.manual_seed(0)
    again = ClassUNet(CONFIG, 2)
    copy, more = train_labelled(again, *spots(500, 1), class_loss, 100, 150, torch.Generator().manual_seed(2))
    assert more == losses
    assert all(torch.equal(a, b) for a, b in zip(copy.parameters(), averaged.parameters(), strict=True))


class Recorder(torch.nn.Module):
    """One number to train, whose gradient is always 1."""

    def __init__(self) -> None:
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(()))


@pytest.mark.parametrize(("steps", "batch", "lr"), [(200, 16, 2e-3), (300, 5, 1e-2)])
def test_what_training_gives_to_the_loss(steps, batch, lr):
    """Pictures with their own labels, all times, fair dice; the rate rises for 50 steps, then falls to 0."""
    images = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 2, 2)
    seen: dict[str, list[Tensor]] = {"t": [], "noise": [], "chance": [], "labels": []}
    network, path = Recorder(), []

    def loss(model, x0, labels, t, noise, chance):
        assert torch.equal(x0[:, 0, 0, 0], labels.float() - 3) and len(x0) == batch and noise.shape == x0.shape
        for name, value in (("t", t), ("noise", noise), ("chance", chance), ("labels", labels)):
            seen[name].append(value.flatten())
        path.append(model.place.item())
        return model.place.expand(batch)

    options = {} if (batch, lr) == (16, 2e-3) else {"batch": batch, "lr": lr}  # the first are the defaults
    averaged, losses = train_labelled(
        network, images, torch.arange(3, 13), loss, 50, steps, torch.Generator().manual_seed(4), **options
    )
    assert losses == pytest.approx(path, rel=1e-5)
    rates = [lr * min(1, (step + 1) / 50) * (1 - step / steps) for step in range(steps)]
    assert path == pytest.approx([-sum(rates[:step]) for step in range(steps)], rel=1e-3, abs=1e-6)
    t, noise, chance, labels = (torch.cat(seen[name]).double() for name in ("t", "noise", "chance", "labels"))
    assert t.min() == 1 and t.max() == 50 and set(labels.tolist()) == set(range(3, 13))
    for values, mean, variance in ((noise, 0, 1), (chance, 0.5, 1 / 12), (t, 25.5, (50**2 - 1) / 12)):
        assert abs(values.mean().item() - mean) < 4 * math.sqrt(variance / len(values))
        assert values.var().item() == pytest.approx(variance, rel=0.15)
    assert chance.min() >= 0 and chance.max() < 1
    decay = 1 - 20 / steps  # of the average, once it is warm
    trail, place = 0.0, [*path[1:], network.place.item()]
    for step, value in enumerate(place):
        d = min(decay, step / (10 + step))
        trail = d * trail + (1 - d) * value
    assert averaged.place.item() == pytest.approx(trail, rel=1e-2)


def test_a_very_short_training_still_averages():
    averaged, losses = train_labelled(
        ClassUNet(CONFIG, 2), *spots(20, 1), class_loss, 100, 3, torch.Generator().manual_seed(2), batch=4, lr=1e-3
    )
    assert len(losses) == 3 and all(p.isfinite().all() for p in averaged.parameters())
