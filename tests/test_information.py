"""Information and divergence of finite distributions, against codes, plain sums and PyTorch."""

import heapq
import itertools
import math

import pytest
import torch
from torch import Tensor

from minildm.information import cross_entropy, entropy, expectation, information, jensen_gap, kl_divergence


def distributions(shape: tuple[int, ...], seed: int) -> Tensor:
    """Random probabilities over the last dimension, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(shape, generator=generator, dtype=torch.float64)
    weights[..., 0] = torch.where(weights[..., 0] < 0.5, 0, weights[..., 0])
    return weights / weights.sum(-1, keepdim=True)


def code_lengths(p: list[float]) -> list[int]:
    """Huffman's lengths: the code words of the shortest code, symbol by symbol."""
    lengths, order = [0] * len(p), itertools.count()
    heap = [(chance, next(order), [place]) for place, chance in enumerate(p)]
    heapq.heapify(heap)
    while len(heap) > 1:
        (a, _, left), (b, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        for place in left + right:
            lengths[place] += 1
        heapq.heappush(heap, (a + b, next(order), left + right))
    return lengths


DYADIC = torch.tensor([[1 / 2, 1 / 4, 1 / 8, 1 / 8], [1 / 4, 1 / 4, 1 / 4, 1 / 4], [1 / 2, 1 / 2, 0, 0]], dtype=torch.float64)


def close(got: Tensor, wanted: object, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(got, torch.as_tensor(wanted, dtype=got.dtype), rtol=tolerance, atol=tolerance)


@pytest.mark.equation("01.4")
def test_an_expectation_is_the_weighted_mean_outcome_by_outcome():
    p, values = distributions((4, 5), 0), torch.arange(20, dtype=torch.float64).reshape(4, 5) ** 2
    close(
        expectation(p, values),
        [sum(a * b for a, b in zip(*rows, strict=True)) for rows in zip(p.tolist(), values.tolist(), strict=True)],
    )


def test_an_expectation_is_linear_and_a_constant_is_its_own_mean():
    p = distributions((3, 2, 6), 1)
    f, g = distributions((3, 2, 6), 2), distributions((6,), 3)
    close(expectation(p, 2 * f - 3 * g), 2 * expectation(p, f) - 3 * expectation(p, g.expand_as(p)))
    close(expectation(p, torch.full((6,), 7.0)), torch.full((3, 2), 7.0))


def test_what_cannot_happen_does_not_count():
    p = torch.tensor([0.25, 0.75, 0.0], dtype=torch.float64)
    for value in (math.inf, -math.inf, math.nan, 5.0):
        close(expectation(p, torch.tensor([4.0, 8.0, value], dtype=torch.float64)), 7.0)


@pytest.mark.equation("01.5")
def test_information_is_the_length_of_the_best_code_word():
    p = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 32], dtype=torch.float64)
    close(information(p), code_lengths(p.tolist()))


def test_information_adds_over_independent_events_and_ends_at_certainty_and_impossibility():
    a, b = distributions((7,), 4)[1:], distributions((7,), 5)[1:]
    close(information(a * b), information(a) + information(b))
    assert information(torch.tensor([1.0, 0.0, 1 + 5e-5])).tolist()[:2] == [0.0, math.inf]
    for wrong in ([0.5, -0.1], [0.5, 1.2], [math.nan, 0.5], [0.5, 1.0002]):
        with pytest.raises(ValueError, match=r"a probability lies in \[0, 1\].*reach from .* to .*density"):
            information(torch.tensor(wrong))


@pytest.mark.equation("01.6")
def test_entropy_is_the_mean_length_of_the_best_code():
    lengths = [code_lengths(row) for row in DYADIC.tolist()]
    wanted = [sum(a * b for a, b in zip(*rows, strict=True)) for rows in zip(DYADIC.tolist()[:2], lengths, strict=False)]
    close(entropy(DYADIC), [*wanted, 1.0])


def test_entropy_lies_between_certainty_and_the_uniform():
    p = distributions((200, 6), 6)
    assert (entropy(p) > 0).all() and (entropy(p) < math.log2(6)).all()
    close(entropy(p), torch.distributions.Categorical(p).entropy() / math.log(2), 1e-9)
    close(entropy(torch.tensor([0.0, 1.0, 0.0])), 0.0)
    close(entropy(torch.full((3, 8), 1 / 8)), [3.0, 3.0, 3.0])
    close(entropy(torch.full((1000,), 1 / 1000)), math.log2(1000), 1e-5)


@pytest.mark.equation("01.7")
def test_cross_entropy_is_the_mean_length_of_the_code_made_for_another_belief():
    believed = DYADIC[[0, 0]]
    true = distributions((2, 4), 7)
    close(cross_entropy(true, believed), true @ torch.tensor([1.0, 2.0, 3.0, 3.0], dtype=torch.float64))


@pytest.mark.equation("01.8")
def test_kl_is_cross_entropy_minus_entropy_and_what_pytorch_computes():
    p, q = distributions((50, 6), 8), distributions((50, 6), 9)
    q = (q + 0.1) / 1.6
    wanted = torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(-1) / math.log(2)
    close(kl_divergence(p, q), wanted)
    close(kl_divergence(p, q), cross_entropy(p, q) - entropy(p))


def test_kl_is_never_negative_and_zero_only_where_the_beliefs_agree():
    p, q = distributions((200, 6), 10), distributions((200, 6), 11)
    assert (kl_divergence(p, q) > 0).all()
    close(kl_divergence(p, p), torch.zeros(200))


def test_impossible_outcomes():
    """0 log 0 is 0; holding what happens to be impossible costs infinitely much; the other way round it is cheap."""
    p, q = torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert kl_divergence(p, q) == math.inf and cross_entropy(p, q) == math.inf
    close(kl_divergence(q, p), 1.0)
    close(cross_entropy(q, p), 1.0)


def test_kl_to_the_uniform_is_what_entropy_lacks():
    p = distributions((20, 8), 12)
    close(kl_divergence(p, torch.full_like(p, 1 / 8)), 3 - entropy(p))


@pytest.mark.equation("01.9")
def test_the_jensen_gap_of_the_square_is_the_variance_and_of_the_exponential_is_known():
    p, values = distributions((4, 5), 13), 3 * distributions((4, 5), 14)
    mean = (p * values).sum(-1, keepdim=True)
    close(jensen_gap(torch.square, p, values), (p * (values - mean) ** 2).sum(-1))
    coin = torch.tensor([[0.5, 0.5]] * 3, dtype=torch.float64)
    steps = torch.tensor([[-1.0, 1.0], [-2.0, 2.0], [-0.5, 0.5]], dtype=torch.float64)
    close(jensen_gap(torch.exp, coin, steps), torch.cosh(steps[:, 1]) - 1)


def test_the_gap_has_the_sign_of_the_curvature():
    p, values = distributions((300, 5), 15), distributions((300, 5), 16) + 0.1
    assert (jensen_gap(torch.exp, p, values) > 0).all()
    assert (jensen_gap(torch.log, p, values) < 0).all()
    close(jensen_gap(lambda x: 3 * x - 2, p, values), torch.zeros(300))


def test_what_is_no_distribution_is_refused():
    three = torch.ones(3)
    for wrong, told in [
        ([0.5, 0.6, 0.0], "1.1"),
        ([0.5, 0.7, -0.2], "-0.2"),
        ([math.nan, 0.5, 0.5], "nan"),
        ([0.3, 0.3, 0.3], "0.9"),
    ]:
        with pytest.raises(ValueError, match=r"sum to 1; here the least is .* divide by the sum") as error:
            expectation(torch.tensor(wrong), three)
        assert told in str(error.value)
    with pytest.raises(ValueError, match=r"sum to 1"):
        expectation(torch.tensor([[0.5, 0.5], [0.5, 0.5002]]), torch.ones(2))
    expectation(torch.tensor([0.5, 0.50005]), torch.ones(2))
    just = torch.tensor([1 + 2.0**-13], dtype=torch.float64)  # the sum of many float32 numbers may be as far off as this
    close(expectation(just, torch.ones(1)), just.item())
    assert information(just) < 0
    for values in (torch.ones(2), torch.ones(3, 1), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"one value per outcome is needed: .* values for probabilities \(3,\)"):
            expectation(torch.full((3,), 1 / 3), values)
    for function in (cross_entropy, kl_divergence):
        with pytest.raises(ValueError, match="is that a density"):
            function(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 1.5]))
