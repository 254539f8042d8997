"""Vector quantisation: nearest codes, the gradient that passes them by, Lloyd's algorithm where its end is known."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from minildm.quantise import Quantizer, cell_means, perplexity, quantise, straight_through, vq_terms


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal_quantiles(count: int = 40001) -> Tensor:
    """Points that stand for a standard normal, each as likely, float64."""
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)


@pytest.mark.equation("15.6")
@pytest.mark.parametrize("shape", [(7, 3), (5, 3, 4, 2)])
def test_every_vector_gets_its_nearest_code(shape):
    z, codebook = randn(*shape, seed=0), randn(6, 3, seed=1)
    z_q, codes = quantise(z, codebook)
    vectors = z.movedim(1, -1).reshape(-1, 3)
    nearest = (vectors[:, None] - codebook).square().sum(2).sqrt().argmin(1)
    assert codes.dtype == torch.int64 and torch.equal(codes.flatten(), nearest)
    assert torch.equal(z_q.movedim(1, -1).reshape(-1, 3), codebook[nearest])
    assert z_q.shape == z.shape and codes.shape == (shape[0], *shape[2:])
    assert len(codes.unique()) > 2


def test_the_gradient_of_quantising_reaches_the_codebook_alone():
    z, codebook = randn(5, 3, seed=0).requires_grad_(), randn(6, 3, seed=1).requires_grad_()
    z_q, codes = quantise(z, codebook)
    z_q.sum().backward()
    assert z.grad is None
    assert torch.equal(codebook.grad, codes.bincount(minlength=6)[:, None].expand(6, 3).double())


def test_codes_of_another_width_are_refused():
    with pytest.raises(ValueError, match="codes of 4 numbers for vectors of 3"):
        quantise(torch.zeros(2, 3), torch.zeros(5, 4))


@pytest.mark.equation("15.8")
def test_straight_through_is_the_code_forwards_and_nothing_backwards():
    z, z_q, above = randn(4, 3, seed=2).requires_grad_(), randn(4, 3, seed=3).requires_grad_(), randn(4, 3, seed=4)
    out = straight_through(z, z_q)
    torch.testing.assert_close(out, z_q, rtol=0, atol=1e-12)
    out.backward(above)
    assert torch.equal(z.grad, above) and z_q.grad is None


@pytest.mark.parametrize("mean", [-0.4, 0.0, 1.5])
def test_straight_through_is_biased_by_what_the_chapter_says(mean):
    """Codes ±1, loss (z_q − c)², z ~ N(μ, σ²): straight through gives 2 (E z_q − c); the truth is −4c N(0; μ, σ²)."""
    c, std, codebook = 0.5, 0.7, torch.tensor([[-1.0], [1.0]], dtype=torch.float64)

    def loss(mu: Tensor) -> Tensor:
        z = (mu + std * normal_quantiles())[:, None]
        return (straight_through(z, quantise(z, codebook)[0]) - c).square().mean()

    mu = torch.tensor(mean, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(mu), mu)
    right = torch.special.ndtr(torch.tensor(mean / std, dtype=torch.float64)).item()
    assert slope.item() == pytest.approx(2 * (2 * right - 1 - c), abs=1e-4)
    with torch.no_grad():
        truth = ((loss(mu + 0.01) - loss(mu - 0.01)) / 0.02).item()
    density = math.exp(-(mean**2) / (2 * std**2)) / math.sqrt(2 * math.pi * std**2)
    assert truth == pytest.approx(-4 * c * density, abs=5e-3)
    assert abs(truth - slope.item()) > 0.1


@pytest.mark.equation("15.9")
def test_the_two_terms_are_equal_in_value_and_pull_on_different_things():
    z, z_q = randn(2, 3, 4, seed=5).requires_grad_(), randn(2, 3, 4, seed=6).requires_grad_()
    apart = sum((a - b) ** 2 for a, b in zip(z.flatten().tolist(), z_q.flatten().tolist(), strict=True)) / 24
    codebook, commitment = vq_terms(z, z_q)
    assert codebook.item() == pytest.approx(apart) and commitment.item() == pytest.approx(apart)
    codebook.backward()
    assert z.grad is None
    torch.testing.assert_close(z_q.grad, 2 * (z_q - z).detach() / 24)
    z_q.grad = None
    commitment.backward()
    assert z_q.grad is None
    torch.testing.assert_close(z.grad, 2 * (z - z_q).detach() / 24)


@pytest.mark.equation("15.7")
def test_lloyd_moves_every_code_to_the_mean_of_its_cell():
    alone, far = torch.full((1, 2), 20.0, dtype=torch.float64), torch.full((1, 2), 99.0, dtype=torch.float64)
    points, codebook = torch.cat([randn(50, 2, seed=7), alone]), torch.cat([randn(3, 2, seed=8), alone - 1, far])
    moved = cell_means(points, codebook)
    for code in range(5):
        mine = [p for p in points if min(range(5), key=lambda j, p=p: (p - codebook[j]).square().sum().item()) == code]
        wanted = torch.stack(mine).mean(0) if mine else codebook[code]
        torch.testing.assert_close(moved[code], wanted)
    assert torch.equal(moved[3], alone[0]) and torch.equal(moved[4], codebook[4])


@pytest.mark.parametrize(("levels", "distortion"), [((0.7979,), 0.3634), ((0.4528, 1.510), 0.1175)])
def test_lloyd_finds_maxs_quantisers_of_the_normal_density(levels, distortion):
    """The tables of Max 1960, IRE Transactions on Information Theory 6:7, to their four digits."""
    points = normal_quantiles()[:, None]
    codebook, errors = torch.linspace(-1, 1.2, 2 * len(levels), dtype=torch.float64)[:, None], []
    for _ in range(200):
        codebook = cell_means(points, codebook)
        errors.append((points - quantise(points, codebook)[0]).square().mean().item())
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(errors))
    assert codebook.flatten().tolist() == pytest.approx([*(-level for level in levels[::-1]), *levels], abs=1e-3)
    assert errors[-1] == pytest.approx(distortion, abs=1e-4)
    rate = math.log(2 * len(levels))
    assert errors[-1] > math.exp(-2 * rate), "no code beats Shannon's bound"


def test_descending_the_codebooks_term_ends_where_lloyd_does():
    points = torch.cat([randn(300, 2, seed=9) * 0.2 + torch.tensor(centre) for centre in ((-1.0, 0.0), (1.0, 0.5), (0.0, -1.5))])
    quantizer = Quantizer(3, 2).double()
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[-0.5, 0.1], [0.5, 0.2], [0.1, -0.5]]))
    by_lloyd = quantizer.codebook.detach().clone()
    for _ in range(30):
        by_lloyd = cell_means(points, by_lloyd)
    optimizer = torch.optim.SGD(quantizer.parameters(), 1.0)
    for _ in range(300):
        optimizer.zero_grad()
        quantizer(points)[2].backward()
        optimizer.step()
    torch.testing.assert_close(quantizer.codebook.detach(), by_lloyd, rtol=0, atol=1e-6)


@pytest.mark.equation("15.10")
def test_perplexity_counts_equal_codes_and_weighs_unequal_ones():
    counts = torch.tensor([[5.0, 5.0, 5.0, 5.0], [8.0, 0.0, 0.0, 0.0], [3.0, 1.0, 0.0, 0.0]])
    by_hand = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    torch.testing.assert_close(perplexity(counts), torch.tensor([4.0, 1.0, by_hand], dtype=torch.float64))
    torch.testing.assert_close(perplexity(10 * counts), perplexity(counts))
    assert perplexity(torch.tensor([2, 2, 0])).item() == pytest.approx(2.0)


def test_a_quantizer_adds_its_two_terms_and_counts_while_it_trains():
    torch.manual_seed(0)
    quantizer, z = Quantizer(6, 3).double(), randn(4, 3, 2, 2, seed=10).requires_grad_()
    z_q, codes, loss = quantizer(z, commitment=0.7)
    wanted = quantise(z, quantizer.codebook)[0]
    torch.testing.assert_close(z_q, wanted)
    assert loss.item() == pytest.approx(1.7 * (z - wanted).square().mean().item())
    (at_z, at_codes) = torch.autograd.grad(loss, (z, quantizer.codebook), retain_graph=True)
    torch.testing.assert_close(at_z, 0.7 * 2 * (z - wanted) / z.numel())
    assert at_codes.abs().sum() > 0
    torch.testing.assert_close(torch.autograd.grad(z_q.sum(), z)[0], torch.ones_like(z))
    default = quantizer(z)[2].item()
    assert default == pytest.approx(1.25 * (z - wanted).square().mean().item())
    assert torch.equal(quantizer.counts, 2 * codes.flatten().bincount(minlength=6).double())
    quantizer.eval()(z)
    assert quantizer.counts.sum() == 2 * codes.numel()
    assert set(quantizer.state_dict()) == {"codebook", "counts"}
    for size, channels in ((0, 2), (2, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            Quantizer(size, channels)
    assert Quantizer(1, 1).codebook.shape == (1, 1)


@pytest.mark.parametrize("places", [(20,), (4, 5), (2, 2, 5)])
def test_dead_codes_are_put_among_the_data_and_living_ones_stay(places):
    """Of vectors along a line, on a map or in a volume."""
    torch.manual_seed(0)
    quantizer, z = Quantizer(50, 2), randn(3, 2, *places, seed=11).float()
    assert not quantizer.counts.any()
    vectors = {tuple(vector) for vector in z.movedim(1, -1).reshape(-1, 2).tolist()}
    assert quantizer.revive(z, torch.Generator().manual_seed(0)) == 50, "none was chosen yet, so all begin among the data"
    started = quantizer.codebook.detach().clone()
    assert {tuple(code) for code in started.tolist()} <= vectors and len(started.unique(dim=0)) > 20
    quantizer(z)
    living = quantizer.counts > 0
    assert quantizer.revive(z + 100, torch.Generator().manual_seed(1)) == int((~living).sum()) > 0
    assert torch.equal(quantizer.codebook[living], started[living]) and bool((quantizer.codebook[~living] > 50).all())
    assert not quantizer.counts.any()
