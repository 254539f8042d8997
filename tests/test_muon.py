"""Muon against singular value decompositions, PyTorch's own, and a problem that it is made for."""

import pytest
import torch
from torch import Tensor, nn

from minildm.muon import Muon, muon_and_adamw, orthogonalized

A, B, C = 3.4445, -4.7750, 2.0315


def by_svd(matrix: Tensor) -> Tensor:
    """What three rounds must make of a matrix: the same directions, each singular value mapped by the polynomial."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(3):
        s = A * s + B * s**3 + C * s**5
    return (u * s) @ v


@pytest.mark.parametrize("shape", [(7, 7), (5, 40), (40, 5), (1, 9), (9, 1), (1, 1)])
def test_directions_stay_and_lengths_are_mapped_by_the_polynomial(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    alone, small, zero, other = orthogonalized(torch.stack([matrix, 1e-3 * matrix, torch.zeros(shape), matrix.flip(1)]))
    torch.testing.assert_close(alone.double(), by_svd(matrix), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(small, alone, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(other.double(), by_svd(matrix.flip(1)), rtol=1e-4, atol=1e-5)
    assert not zero.any()


def test_values_of_a_fiftieth_or_more_end_near_one():
    """Between 0.68 and 1.21, as the docstring says; a thousandth does not."""
    lengths = torch.tensor([0.9, 0.4, 0.1, 0.02])
    u, v = (torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)))[0] for seed in (0, 1))
    values = torch.linalg.svdvals(orthogonalized(((u * (lengths / lengths.norm())) @ v)[None]))
    assert values.min() >= 0.68 and values.max() <= 1.21
    assert torch.linalg.svdvals(orthogonalized(torch.diag(torch.tensor([1.0, 0.001]))[None])).min() < 0.1


def stepped(make, weight: Tensor, gradients: list[Tensor]) -> Tensor:
    """The weight after one step with each gradient."""
    weight = nn.Parameter(weight.clone())
    optimizer = make([weight])
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


def draws(*shape: int, count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (4, 6), (12, 3)])
def test_steps_are_those_of_the_formula(shape):
    """Average, look ahead, decay, step: written out with singular value decompositions, four steps long."""
    weight, *gradients = draws(*shape, count=5)
    average, wanted = torch.zeros(shape), weight
    for gradient in gradients:
        average = 0.7 * average + 0.3 * gradient
        direction = by_svd((0.3 * gradient + 0.7 * average).flatten(1)).float()
        wanted = wanted - 0.01 * 0.2 * wanted - 0.01 * max(direction.shape) ** 0.5 * direction.view(shape)
    got = stepped(lambda weights: Muon(weights, 0.01, momentum=0.7, weight_decay=0.2), weight, gradients)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (16, 16)])
def test_pytorchs_own_takes_the_same_steps(shape):
    """Up to its bfloat16; the rate that it calls Adam's has a fifth of our steps."""
    weight, *gradients = draws(*shape, count=5)

    def theirs(weights):
        return torch.optim.Muon(weights, 0.05, weight_decay=0.1, momentum=0.8, ns_steps=3, adjust_lr_fn="match_rms_adamw")

    def ours(weights):  # the same step at a fifth of the rate, and the same decay at five times the weight
        return Muon(weights, 0.01, momentum=0.8, weight_decay=0.5)

    moved, wanted = (stepped(make, weight, gradients) - weight for make in (ours, theirs))
    assert (moved - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_where_a_convolution_lies_in_memory_changes_nothing(memory):
    weight, *gradients = draws(6, 4, 3, 3)
    got = stepped(lambda weights: Muon(weights, 0.1), weight.to(memory_format=memory), gradients)
    torch.testing.assert_close(got, stepped(lambda weights: Muon(weights, 0.1), weight, gradients))


def test_weights_of_one_shape_move_as_each_would_alone():
    """Three steps of five weights in one optimizer, one of another shape, one without a gradient, one channels-last."""
    starts = [*draws(6, 4, 3, 3, count=4), *draws(8, 5, count=1)]
    gradients = [
        [(place + 1) * each for each in draws(*start.shape, count=7)[place : place + 3]] for place, start in enumerate(starts)
    ]
    weights = [nn.Parameter(start.clone()) for start in starts]
    weights[1].data = weights[1].data.to(memory_format=torch.channels_last)
    optimizer = Muon(weights, 0.1, weight_decay=0.1)
    for step in range(3):
        for place, weight in enumerate(weights):
            weight.grad = None if place == 2 else gradients[place][step].clone()
        optimizer.step()
    for place, (weight, start) in enumerate(zip(weights, starts, strict=True)):
        alone = stepped(lambda one: Muon(one, 0.1, weight_decay=0.1), start, gradients[place]) if place != 2 else start
        torch.testing.assert_close(weight.detach(), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (128, 128), (16, 8, 3, 3)])
def test_half_precision_takes_almost_the_same_steps(shape):
    """bfloat16 has eight significant bits: an error of 0.4% in each of some ten products. Weights and averages stay float32."""
    weight, *gradients = draws(*shape, count=5)
    half = nn.Parameter(weight.clone())
    optimizer = Muon([half], 0.01, weight_decay=0.1, precision=torch.bfloat16)
    for gradient in gradients:
        half.grad = gradient.clone()
        optimizer.step()
    assert half.dtype == optimizer.state[half]["average"].dtype == torch.float32
    moved, wanted = half.detach() - weight, stepped(lambda one: Muon(one, 0.01, weight_decay=0.1), weight, gradients) - weight
    assert 1e-4 * wanted.norm() < (moved - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.parametrize("own", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("precision", [None, torch.float32, torch.bfloat16])
def test_the_products_are_of_the_type_that_is_asked_for(own, precision):
    """The first step from zero is the rate times what `orthogonalized` gives in that type; by default in the weights' own."""
    gradient = draws(12, 20, count=1)[0].to(own)
    ahead = gradient.lerp(0.2 * gradient, 0.8)[None]
    direction = orthogonalized(ahead.to(precision or own))[0].to(own)
    moved = stepped(lambda one: Muon(one, 0.01, precision=precision), torch.zeros(12, 20, dtype=own), [gradient])
    rounding = 0.01 if torch.bfloat16 in (own, precision) else 1e-5
    torch.testing.assert_close(moved, -0.01 * 20**0.5 * direction, rtol=rounding, atol=rounding * 0.01)
    exact = orthogonalized(ahead.double())[0]
    error = float((moved.double() / -(0.01 * 20**0.5) - exact).norm() / exact.norm())
    least, most = {torch.float64: (0, 1e-12), torch.float32: (1e-9, 1e-5), torch.bfloat16: (3e-3, 0.05)}[precision or own]
    assert own == torch.bfloat16 or least <= error < most


def test_half_precision_keeps_every_direction():
    """Lengths between a fiftieth and one still end near one, a little less exactly, and zeros stay zeros."""
    lengths = torch.tensor([0.9, 0.4, 0.1, 0.02])
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(1000, 4, 4, generator=generator))[0] for _ in range(2))
    values = torch.linalg.svdvals(orthogonalized(((u * lengths) @ v).bfloat16()).float())
    assert values.min() >= 0.3 and values.max() <= 1.8
    assert not orthogonalized(torch.zeros(1, 4, 6, dtype=torch.bfloat16)).any()


def test_a_step_is_as_long_as_the_rate():
    """In root mean square, whatever the gradient's size, for matrices whose directions all have something to say."""
    for shape in ((32, 32), (16, 200), (200, 16), (8, 4, 3, 3)):
        (gradient,) = draws(*shape, count=1)
        for size in (1e-4, 1.0, 1e4):
            moved = stepped(lambda weights: Muon(weights, 0.01), torch.zeros(shape), [size * gradient])
            assert 0.006 < moved.square().mean().sqrt() < 0.0125


def test_no_decay_by_default_and_none_without_a_gradient():
    weight = draws(3, 5)[0]
    assert torch.equal(stepped(lambda weights: Muon(weights, 0.1), weight, [torch.zeros(3, 5)]), weight)
    still = nn.Parameter(weight.clone())
    Muon([still], 0.1, weight_decay=1.0).step()
    assert torch.equal(still, weight)


def test_a_vector_is_refused_by_its_shape():
    with pytest.raises(ValueError, match=r"shape \(3,\) is no matrix"):
        Muon([nn.Parameter(torch.zeros(3))], 0.1)


def test_every_weight_that_learns_has_one_optimizer():
    layers = {
        "table": nn.Embedding(5, 4),
        "frozen": nn.Linear(4, 4).requires_grad_(False),
        "linear": nn.Linear(4, 4),
        "norm": nn.GroupNorm(2, 4),
        "convolution": nn.Conv2d(4, 4, 3),
    }
    network = nn.ModuleDict(layers)
    network["twice"] = network["linear"]  # one weight under two names
    muon, adamw = muon_and_adamw(network, 0.2, 0.3)
    assert [id(each) for each in muon.param_groups[0]["params"]] == [
        id(layers[name].weight) for name in ("linear", "convolution")
    ]
    rest = [layers["table"].weight, layers["linear"].bias, *layers["norm"].parameters(), layers["convolution"].bias]
    assert [id(each) for each in adamw.param_groups[0]["params"]] == [id(each) for each in rest]
    for optimizer in (muon, adamw):
        assert optimizer.param_groups[0]["lr"] == 0.2 and optimizer.param_groups[0]["weight_decay"] == 0.3
    assert adamw.param_groups[0]["betas"] == (0.9, 0.99) and muon.param_groups[0]["momentum"] == 0.8
    assert [optimizer.param_groups[0]["weight_decay"] for optimizer in muon_and_adamw(network, 0.2)] == [0, 0]
    for empty in (nn.GroupNorm(1, 1), nn.Linear(2, 2, bias=False)):  # nothing for the one, nothing for the other
        for optimizer in muon_and_adamw(empty, 0.1):
            optimizer.step()


def test_what_is_rare_is_learned_as_soon_as_what_is_frequent():
    """A linear map seen through inputs of very different sizes: Adam learns the large ones, Muon all."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
    x = torch.randn(512, 16, generator=generator) * torch.logspace(0, -2, 16) @ mixing
    truth = torch.randn(16, 16, generator=generator) / 4

    def missed(make) -> float:
        weight = nn.Parameter(torch.zeros(16, 16))
        optimizer = make([weight])
        for step in range(200):
            optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
            optimizer.zero_grad()
            (x @ (weight - truth).T).square().sum(1).mean().backward()
            optimizer.step()
        return ((weight - truth).norm() / truth.norm()).item()

    adam, muon = missed(lambda weights: torch.optim.AdamW(weights, weight_decay=0)), missed(lambda weights: Muon(weights, 0.05))
    print(f"of the map is missed: {adam:.1%} by Adam, {muon:.1%} by Muon")
    assert muon < 0.3 * adam
