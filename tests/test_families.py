"""GAN and flow: their equations against quadrature, autograd and closed forms; their training against the loops written out."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from minildm.families import (
    GAN,
    Coupling,
    Flow,
    Ring,
    gan_value,
    jensen_shannon,
    mlp,
    mode_shares,
    modes_covered,
    non_saturating_loss,
    optimal_discriminator,
    saturating_loss,
    train_flow,
    train_gan,
    value_at_optimum,
)

LOGITS = torch.tensor([-3.0, -0.4, 0.1, 1.7, 2.9], dtype=torch.float64)


def plane(half: float, count: int) -> tuple[torch.Tensor, float]:
    """The centres of count² cells of a square, float64, and a cell's area."""
    line = (torch.arange(count, dtype=torch.float64) + 0.5) / count * 2 * half - half
    return torch.cartesian_prod(line, line), (2 * half / count) ** 2


def normal_density(x: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    return torch.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


def jacobian_log_det(function, x: torch.Tensor) -> torch.Tensor:
    """log |det| of the Jacobian that autograd finds, row by row."""
    rows = [torch.autograd.functional.jacobian(lambda row: function(row[None])[0][0], each) for each in x]
    return torch.linalg.slogdet(torch.stack(rows))[1]


def doubled(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights twice as large as usual and in float64, so that scales and shifts are far from 0."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / parameter.shape[-1] ** 0.5)
    return module


def points(count: int = 6, dimensions: int = 2) -> torch.Tensor:
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# The ring


@pytest.mark.equation("02.1")
def test_the_rings_density_is_the_mean_of_its_modes_and_integrates_to_one():
    ring = Ring(modes=5, radius=1.1, std=0.3)
    x = points()
    density = sum(
        normal_density(x[:, 0], 1.1 * math.cos(angle), 0.3) * normal_density(x[:, 1], 1.1 * math.sin(angle), 0.3)
        for angle in (2 * math.pi * k / 5 for k in range(5))
    )
    assert torch.allclose(ring.log_prob(x).exp(), density / 5, rtol=1e-10)
    grid, cell = plane(4, 200)
    assert ring.log_prob(grid).exp().sum().item() * cell == pytest.approx(1, abs=1e-9)


@pytest.mark.equation("02.2")
@pytest.mark.parametrize("ring", [Ring(), Ring(modes=3, radius=2.0, std=0.2), Ring(modes=1, std=0.5)])
def test_the_rings_entropy_is_what_quadrature_finds(ring):
    grid, cell = plane(4, 600)
    log_p = ring.log_prob(grid)
    assert ring.entropy() == pytest.approx(-(log_p.exp() * log_p).sum().item() * cell, abs=2e-4)


def test_the_rings_centres_lie_on_the_circle_counterclockwise():
    centres = Ring(modes=4, radius=2.0).centres
    assert centres.dtype == torch.float64
    assert torch.allclose(centres, torch.tensor([[2.0, 0], [0, 2], [-2, 0], [0, -2]], dtype=torch.float64), atol=1e-12)


def test_the_ring_that_the_chapter_uses():
    ring = Ring()
    assert (ring.modes, ring.radius, ring.std) == (8, 1.4, 0.12)


def test_the_rings_samples_have_its_entropy_and_its_modes_alike():
    torch.manual_seed(0)
    ring = Ring(modes=5, radius=1.2, std=0.1)
    x = ring.sample(20000)
    assert x.shape == (20000, 2) and x.dtype == torch.float32
    surprise = -ring.log_prob(x)
    assert abs(surprise.mean().item() - ring.entropy()) < 4 * surprise.std().item() / math.sqrt(20000)
    shares = mode_shares(x, ring, within=2.0)
    right = (1 - math.exp(-2)) / 5
    assert (shares - right).abs().max() < 4 * math.sqrt(right / 20000)


def test_a_mode_is_as_wide_in_one_direction_as_in_every_other():
    torch.manual_seed(1)
    x = Ring(modes=1, radius=1.0, std=0.1).sample(20000).double() - torch.tensor([1.0, 0.0])
    covariance = x.T @ x / 20000
    assert (covariance - 0.01 * torch.eye(2)).abs().max() < 4 * 0.01 * math.sqrt(2 / 20000)


def test_a_ring_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Ring().modes = 9


@pytest.mark.parametrize("wrong", [{"modes": 0}, {"radius": 0.0}, {"radius": -1.0}, {"std": 0.0}, {"std": -0.1}])
def test_a_ring_that_does_not_exist_is_refused(wrong):
    with pytest.raises(ValueError, match="must be positive"):
        Ring(**wrong)
    assert Ring(modes=1, radius=0.5, std=0.2).modes == 1


def test_shares_count_the_points_near_each_mode():
    ring = Ring(modes=4, radius=1.0, std=0.1)
    x = torch.tensor([[1.0, 0.0], [1.29, 0.0], [1.31, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, -0.71], [0.0, -0.69], [0.0, 1.2]])
    shares = mode_shares(x, ring)
    assert shares.dtype == torch.float64 and shares.tolist() == [2 / 8, 2 / 8, 0, 1 / 8]
    assert mode_shares(x, ring, within=1.0).tolist() == [1 / 8, 1 / 8, 0, 0]


def test_a_mode_is_covered_when_it_has_a_tenth_of_its_due():
    assert modes_covered(torch.tensor([0.3, 0.025, 0.024, 0.6])) == 3
    assert modes_covered(torch.tensor([0.0, 0.0])) == 0
    assert modes_covered(torch.tensor([0.3, 0.2, 0.1, 0.4]), least=1.0) == 2
    assert isinstance(modes_covered(torch.tensor([1.0])), int)


def test_a_network_has_its_layers():
    sizes = [(layer.in_features, layer.out_features) for layer in mlp(3, 7, 2, hidden=3) if isinstance(layer, nn.Linear)]
    assert sizes == [(3, 7), (7, 7), (7, 7), (7, 2)]
    assert [type(layer) for layer in mlp(3, 7, 2)] == [nn.Linear, nn.SiLU, nn.Linear, nn.SiLU, nn.Linear]
    assert [type(layer) for layer in mlp(3, 7, 2, hidden=1, between=nn.ReLU)] == [nn.Linear, nn.ReLU, nn.Linear]


# The adversarial game

LINE = (torch.arange(8000, dtype=torch.float64) + 0.5) / 400 - 10  # −10 … 10
CELL = 1 / 400


@pytest.mark.equation("02.3")
def test_the_games_value_is_the_two_mean_logarithms():
    real, fake = LOGITS, LOGITS.flip(0)[:4] - 1
    d_real, d_fake = 1 / (1 + torch.exp(-real)), 1 / (1 + torch.exp(-fake))
    wanted = sum(math.log(d) for d in d_real.tolist()) / 5 + sum(math.log(1 - d) for d in d_fake.tolist()) / 4
    assert gan_value(real, fake).item() == pytest.approx(wanted, rel=1e-12)


def test_the_games_value_survives_a_discriminator_that_is_sure():
    assert gan_value(torch.tensor([200.0]), torch.tensor([-200.0])).item() == 0
    assert gan_value(torch.tensor([-200.0]), torch.tensor([300.0])).item() == -500


@pytest.mark.equation("02.4")
def test_no_discriminator_does_better_than_the_optimal_one():
    """At each place on a line the best D is searched for among many: it is what the formula says."""
    p, q = normal_density(LINE, -0.5, 1.0), normal_density(LINE, 1.0, 1.4)
    places = slice(2800, 5200, 300)
    tries = torch.linspace(0.0005, 0.9995, 9991, dtype=torch.float64)
    won = p[places, None] * tries.log() + q[places, None] * (1 - tries).log()
    best = tries[won.argmax(1)]
    got = optimal_discriminator(p.log(), q.log())[places]
    assert torch.allclose(got, best, atol=1e-4)
    assert torch.allclose(optimal_discriminator(torch.tensor(-4000.0), torch.tensor(-4003.0)), torch.sigmoid(torch.tensor(3.0)))


@pytest.mark.equation("02.5")
def test_the_divergence_is_the_mean_of_two_divergences_from_the_middle():
    p, q = normal_density(LINE, -0.5, 1.0), normal_density(LINE, 1.0, 1.4)
    m = (p + q) / 2
    wanted = 0.5 * torch.trapezoid(p * (p / m).log(), LINE) + 0.5 * torch.trapezoid(q * (q / m).log(), LINE)
    assert jensen_shannon(p.log(), q.log(), CELL).item() == pytest.approx(wanted.item(), rel=1e-8)


def test_the_divergence_runs_from_nothing_to_log_two_and_is_symmetric():
    p, q = normal_density(LINE, -0.5, 1.0).log(), normal_density(LINE, 1.0, 1.4).log()
    apart = [normal_density(LINE, mean, 0.2).log().clamp(min=-600) for mean in (-5.0, 5.0)]
    assert jensen_shannon(p, p, CELL).item() == pytest.approx(0, abs=1e-12)
    assert jensen_shannon(*apart, CELL).item() == pytest.approx(math.log(2), abs=1e-9)
    assert jensen_shannon(p, q, CELL).item() == pytest.approx(jensen_shannon(q, p, CELL).item(), rel=1e-12)


@pytest.mark.equation("02.6")
@pytest.mark.parametrize(("mean", "std"), [(1.0, 1.4), (-0.5, 0.6), (6.0, 0.5)])
def test_the_best_discriminators_value_is_the_divergence(mean, std):
    p, q = normal_density(LINE, -0.5, 1.0).clamp(min=1e-300), normal_density(LINE, mean, std).clamp(min=1e-300)
    value = ((p * (p / (p + q)).log() + q * (q / (p + q)).log()).sum() * CELL).item()  # D* and 1 − D*
    m = (p + q) / 2
    divergence = 0.5 * CELL * (p * (p / m).log() + q * (q / m).log()).sum()
    assert value_at_optimum(divergence).item() == pytest.approx(value, abs=1e-9)


@pytest.mark.equation("02.7")
def test_the_saturating_loss_is_the_mean_of_log_one_minus_d():
    assert saturating_loss(LOGITS).item() == pytest.approx((1 - torch.sigmoid(LOGITS)).log().mean().item(), rel=1e-12)


@pytest.mark.equation("02.8")
def test_the_non_saturating_loss_is_the_mean_of_minus_log_d():
    assert non_saturating_loss(LOGITS).item() == pytest.approx(-torch.sigmoid(LOGITS).log().mean().item(), rel=1e-12)


def test_where_the_discriminator_is_sure_only_one_loss_still_pulls():
    for loss, slope in [(saturating_loss, -torch.sigmoid(LOGITS)), (non_saturating_loss, torch.sigmoid(LOGITS) - 1)]:
        logits = LOGITS.clone().requires_grad_()
        (found,) = torch.autograd.grad(loss(logits), logits)
        assert torch.allclose(found, slope / 5, rtol=1e-12)


def test_a_gan_draws_points_from_noise():
    torch.manual_seed(0)
    gan = GAN(latent=3, width=5)
    torch.manual_seed(1)
    x = gan.sample(4)
    torch.manual_seed(1)
    assert torch.equal(x, gan.generator(torch.randn(4, 3))) and x.shape == (4, 2)
    assert gan.discriminator(x).shape == (4, 1)
    assert GAN().latent == 2
    for part, inputs, outputs in ((GAN().generator, 2, 2), (GAN().discriminator, 2, 1), (gan.generator, 3, 2)):
        assert (part[0].in_features, part[-1].out_features) == (inputs, outputs)
        assert [type(layer) for layer in part] == [*[nn.Linear, nn.ReLU] * 3, nn.Linear]
    assert GAN().generator[0].out_features == GAN().discriminator[0].out_features == 128


def reference_gan(gan, draw, steps, batch, rates, saturating):
    """The same training, written out with losses from the library."""
    g = torch.optim.Adam(gan.generator.parameters(), betas=(0.5, 0.99))
    d = torch.optim.Adam(gan.discriminator.parameters(), betas=(0.5, 0.99))
    values = []
    for step in range(steps):
        g.param_groups[0]["lr"], d.param_groups[0]["lr"] = (rate * (steps - step) / steps for rate in rates)
        real = gan.discriminator(draw(batch))
        fake = gan.discriminator(gan.generator(torch.randn(batch, gan.latent)).detach())
        loss = F.binary_cross_entropy_with_logits(real, torch.ones(batch, 1))
        loss = loss + F.binary_cross_entropy_with_logits(fake, torch.zeros(batch, 1))
        d.zero_grad(), loss.backward(), d.step()
        fake = gan.discriminator(gan.generator(torch.randn(batch, gan.latent)))
        zeros, ones = torch.zeros(batch, 1), torch.ones(batch, 1)
        signs = (-1, zeros) if saturating else (1, ones)
        loss_g = signs[0] * F.binary_cross_entropy_with_logits(fake, signs[1])
        g.zero_grad(), loss_g.backward(), g.step()
        values.append(-loss.item())
    return values


def test_generator_and_discriminator_need_a_rate_each():
    with pytest.raises(ValueError, match="shorter"):
        train_gan(GAN(width=4), Ring().sample, 1, rates=(1e-3,))


@pytest.mark.parametrize("saturating", [False, True])
def test_training_a_gan_is_the_game_written_out(saturating):
    ring = Ring()
    options = {"loss": saturating_loss, "rates": (2e-3, 5e-3), "batch": 32} if saturating else {}
    trained = []
    for way in ("module", "reference"):
        torch.manual_seed(3)
        gan = GAN(width=16)
        if way == "module":
            values = train_gan(gan, ring.sample, 6, **options)
        else:
            rates = options.get("rates", (1e-3, 1e-3))
            wanted = reference_gan(gan, ring.sample, 6, options.get("batch", 256), rates, saturating)
        trained.append(gan.state_dict())
    assert values.shape == (6,) and not values.requires_grad
    assert values.tolist() == pytest.approx(wanted, abs=1e-5)
    for name, value in trained[0].items():
        assert torch.allclose(value, trained[1][name], atol=2e-5), name


# The flow


@pytest.mark.equation("02.10", "02.11", "02.12")
@pytest.mark.parametrize("mask", [(1, 0), (0, 1), (1, 0, 0, 1, 0)])
def test_a_coupling_moves_what_it_does_not_keep_and_its_inverse_moves_it_back(mask):
    layer, x = doubled(Coupling(mask)), points(dimensions=len(mask))
    y, log_det = layer(x)
    raw = layer.network(torch.where(torch.tensor(mask) == 1, x, 0.0))
    for place, keeps in enumerate(mask):
        s, t = 2 * torch.tanh(raw[:, place]), raw[:, len(mask) + place]
        wanted = x[:, place] if keeps else x[:, place] * torch.exp(s) + t
        back = y[:, place] if keeps else (y[:, place] - t) / torch.exp(s)
        assert torch.allclose(y[:, place], wanted, rtol=1e-12)
        assert torch.allclose(layer.inverse(y)[:, place], back, rtol=1e-10)
        assert torch.allclose(back, x[:, place], rtol=1e-9)
    assert (y - x).abs().max() > 0.1
    assert torch.allclose(log_det, jacobian_log_det(layer, x), atol=1e-9)


@pytest.mark.parametrize("mask", [(1, 0), (0, 1), (1, 0, 0, 1, 0)])
def test_a_couplings_determinant_is_what_autograd_finds(mask):
    layer, x = doubled(Coupling(mask)), points(dimensions=len(mask))
    y, log_det = layer(x)
    assert log_det.shape == (6,)
    assert torch.allclose(log_det, jacobian_log_det(layer, x), atol=1e-9)
    assert torch.allclose(layer.inverse(y), x, atol=1e-9)
    assert torch.allclose(layer.inverse(x + 0), layer.inverse(x)) and not torch.allclose(layer.inverse(x), x)


@pytest.mark.parametrize("mask", [(1, 1), (0, 0), (1, 2), (0, -1), (0, 1, 2), ()])
def test_a_mask_that_keeps_all_or_nothing_is_refused(mask):
    with pytest.raises(ValueError, match="zeros and ones, both and nothing else"):
        Coupling(mask)


def test_a_couplings_network_and_mask():
    layer = Coupling((1, 0, 1))
    shapes = [(part.in_features, part.out_features) for part in layer.network if isinstance(part, nn.Linear)]
    assert shapes == [(3, 64), (64, 64), (64, 6)] and isinstance(layer.network[1], nn.ReLU)
    assert layer.mask.dtype == torch.float32 and "mask" in layer.state_dict()
    assert Coupling((0, 1), width=9).network[0].out_features == 9


@pytest.mark.equation("02.9")
def test_a_flows_density_is_that_of_its_noise_times_the_jacobian():
    flow, x = doubled(Flow(width=16)), points()
    z, log_det = flow(x)
    density = normal_density(z[:, 0], 0, 1) * normal_density(z[:, 1], 0, 1)
    assert torch.allclose(log_det, jacobian_log_det(flow, x), atol=1e-8)
    assert torch.allclose(flow.log_prob(x), density.log() + jacobian_log_det(flow, x), atol=1e-8)


def test_a_flows_density_integrates_to_one():
    torch.manual_seed(0)
    flow = Flow(width=16).double()
    grid, cell = plane(20, 800)
    with torch.no_grad():
        assert flow.log_prob(grid).exp().sum().item() * cell == pytest.approx(1, abs=1e-4)


def test_a_flow_goes_back_the_way_it_came():
    flow, x = doubled(Flow(((1, 0, 0), (0, 1, 1), (0, 0, 1)), width=16)), points(dimensions=3)
    z, log_det = flow(x)
    assert torch.allclose(flow.inverse(z), x, atol=1e-8) and not torch.allclose(z, x)
    by_hand, total = x, 0
    for layer in flow.layers:
        by_hand, more = layer(by_hand)
        total = total + more
    assert torch.equal(z, by_hand) and torch.allclose(log_det, total)


def test_a_flow_draws_noise_and_takes_it_back():
    torch.manual_seed(0)
    flow = Flow(((1, 0, 0), (0, 1, 1)), width=8)
    torch.manual_seed(5)
    x = flow.sample(7)
    torch.manual_seed(5)
    assert x.shape == (7, 3)
    assert torch.allclose(flow(x)[0], torch.randn(7, 3), atol=1e-5)


def test_a_flow_swaps_the_halves_from_layer_to_layer():
    masks = [tuple(layer.mask.tolist()) for layer in Flow().layers]
    assert masks == [(1, 0), (0, 1)] * 4
    assert Flow().layers[0].network[0].out_features == 64
    assert Flow(width=8).layers[3].network[0].out_features == 8


def test_training_a_flow_is_maximum_likelihood_written_out():
    ring = Ring()
    for options, batch, rate in [({}, 256, 5e-3), ({"batch": 16, "rate": 1e-2}, 16, 1e-2)]:
        torch.manual_seed(3)
        flow = Flow(width=8)
        losses = train_flow(flow, ring.sample, 5, **options)
        torch.manual_seed(3)
        other = Flow(width=8)
        adam, wanted = torch.optim.Adam(other.parameters(), lr=1.0), []
        for step in range(5):
            adam.param_groups[0]["lr"] = rate * (5 - step) / 5
            z, log_det = other(ring.sample(batch))
            loss = (0.5 * (z**2).sum(1) + math.log(2 * math.pi) - log_det).mean()
            adam.zero_grad(), loss.backward(), adam.step()
            wanted.append(loss.item())
        assert losses.shape == (5,) and not losses.requires_grad
        assert losses.tolist() == pytest.approx(wanted, abs=1e-4)
        for (name, value), right in zip(flow.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.allclose(value, right, atol=2e-5), name
