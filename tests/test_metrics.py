"""The instruments against closed forms, brute force and inversion."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from minildm.metrics import (
    frechet_distance,
    matrix_square_root,
    nearest_distances,
    precision_recall,
    prompt_accuracy,
    wilson_interval,
)


def features_with(mean: Tensor, covariance: Tensor, count: int, seed: int) -> Tensor:
    """`count` points whose sample mean and sample covariance are exactly these."""
    size = len(mean)
    x = torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / (count - 1)), x.T, upper=False).T
    return mean + white @ torch.linalg.cholesky(covariance).T


def random_covariance(size: int, seed: int) -> Tensor:
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a @ a.T + 0.1 * torch.eye(size, dtype=torch.float64)


def rotation(size: int, seed: int) -> Tensor:
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(a).Q


def test_frechet_distance_of_commuting_gaussians():
    """With a common eigenbasis it is ‖μ₁ − μ₂‖² + Σ (√λ₁ − √λ₂)²."""
    size, basis = 6, rotation(6, 0)
    first = torch.tensor([0.1, 0.5, 1.0, 2.0, 3.0, 9.0], dtype=torch.float64)
    second = torch.tensor([4.0, 0.5, 0.2, 1.0, 8.0, 1.0], dtype=torch.float64)
    shift = torch.arange(size, dtype=torch.float64) / 3
    x = features_with(torch.zeros(size, dtype=torch.float64), basis * first @ basis.T, 50, 1)
    y = features_with(shift, basis * second @ basis.T, 80, 2)
    wanted = shift.square().sum() + (first.sqrt() - second.sqrt()).square().sum()
    assert frechet_distance(x, y) == pytest.approx(wanted.item(), rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_frechet_distance_of_any_gaussians(seed):
    """tr (Σ₁Σ₂)^½ from the eigenvalues of the product, which is not symmetric: another route than the code's."""
    size = 5
    cov1, cov2 = random_covariance(size, 10 + seed), random_covariance(size, 20 + seed)
    mean1, mean2 = torch.randn(2, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x, y = features_with(mean1, cov1, 40, 30 + seed), features_with(mean2, cov2, 60, 40 + seed)
    cross = np.sqrt(np.linalg.eigvals(cov1.numpy() @ cov2.numpy()).real).sum()
    wanted = ((mean1 - mean2) ** 2).sum().item() + (cov1.trace() + cov2.trace()).item() - 2 * cross
    assert frechet_distance(x, y) == pytest.approx(wanted, rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(wanted, rel=1e-9)


def test_frechet_distance_agrees_with_scipy():
    linalg = pytest.importorskip("scipy.linalg")
    x, y = torch.randn(2, 60, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    y = 2 * y + 1
    cov1, cov2 = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    means = ((x.mean(0) - y.mean(0)) ** 2).sum().item()
    wanted = means + np.trace(cov1 + cov2 - 2 * linalg.sqrtm(cov1 @ cov2).real)
    assert frechet_distance(x, y) == pytest.approx(wanted, rel=1e-8)


def test_frechet_distance_is_zero_on_itself_and_ignores_rotations():
    x, y = torch.randn(2, 100, 8, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    y = y * torch.linspace(0.5, 2, 8, dtype=torch.float64) + 0.3
    turn, shift = rotation(8, 7), torch.arange(8, dtype=torch.float64)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x @ turn + shift, y @ turn + shift) == pytest.approx(frechet_distance(x, y), rel=1e-9)
    assert frechet_distance(3 * x, 3 * y) == pytest.approx(9 * frechet_distance(x, y), rel=1e-9)


def test_frechet_distance_of_one_dimension_and_of_fewer_points_than_dimensions():
    x = torch.tensor([[0.0], [2.0]])  # mean 1, variance 2
    y = torch.tensor([[3.0], [7.0]])  # mean 5, variance 8
    assert frechet_distance(x, y) == pytest.approx(16 + (math.sqrt(8) - math.sqrt(2)) ** 2)
    few = torch.randn(3, 10, generator=torch.Generator().manual_seed(8))
    assert frechet_distance(few, few + 1) == pytest.approx(10, rel=1e-5)  # singular covariances cancel, the shift stays


@pytest.mark.parametrize(
    ("first", "second"), [((5, 3), (5, 4)), ((5,), (5,)), ((1, 3), (5, 3)), ((5, 3), (1, 3)), ((0, 3), (5, 3))]
)
def test_features_that_do_not_fit_are_refused(first, second):
    with pytest.raises(ValueError) as error:
        frechet_distance(torch.zeros(first), torch.zeros(second))
    assert str(first[0]) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_never_look_perfect(size, value):
    x = torch.randn(5, size, generator=torch.Generator().manual_seed(9))
    broken = x.clone()
    broken[2, 0] = value
    for pair in ((broken, x), (x, broken)):
        with pytest.raises(ValueError, match="finite"):
            frechet_distance(*pair)


def test_the_square_root_squares_to_the_matrix():
    matrix = random_covariance(6, 11)
    matrix[0], matrix[:, 0] = 0, 0  # singular
    root = matrix_square_root(matrix)
    torch.testing.assert_close(root @ root, matrix)
    torch.testing.assert_close(root, root.T)
    assert torch.linalg.eigvalsh(root).min() > -1e-9


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_has_the_published_values(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5.1e-5)


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (3, 10), (50, 100), (999, 1000), (0, 50), (50, 50)])
@pytest.mark.parametrize("z", [1.0, 1.959964, 3.0])
def test_wilson_interval_inverts_the_score_test(successes, trials, z):
    """Its ends are the p at which |p̂ − p| = z √(p(1 − p)/n), found by bisection."""
    p_hat = successes / trials

    def surplus(p: float) -> float:
        return abs(p_hat - p) - z * math.sqrt(p * (1 - p) / trials)

    def solve(outside: float) -> float:
        inside = p_hat  # a p that the test accepts; `outside` it rejects
        for _ in range(100):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if surplus(middle) < 0 else (inside, middle)
        return inside

    low, high = wilson_interval(successes, trials, z)
    assert low == pytest.approx(0 if successes == 0 else solve(0.0), abs=1e-9)
    assert high == pytest.approx(1 if successes == trials else solve(1.0), abs=1e-9)
    assert 0 <= low < high <= 1 and low - 1e-12 <= p_hat <= high + 1e-12


def test_wilson_interval_ends_at_0_and_at_1_without_rounding():
    """Of no successes it begins at 0 exactly, of nothing but successes it ends at 1; the share itself is always inside."""
    for trials in range(1, 2001):
        assert wilson_interval(0, trials)[0] == 0 and wilson_interval(trials, trials)[1] == 1
        low, high = wilson_interval(trials // 3, trials)
        assert 0 <= low <= trials // 3 / trials <= high <= 1


def test_wilson_interval_covers_as_often_as_it_says():
    """Averaged over p, the exact binomial coverage of the 95% interval is close to 95%."""
    n = 40
    intervals = [wilson_interval(k, n) for k in range(n + 1)]
    coverage = []
    for p in np.linspace(0.02, 0.98, 97):
        held = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k, (low, high) in enumerate(intervals) if low <= p <= high]
        coverage.append(sum(held))
    assert np.mean(coverage) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(successes, trials):
    with pytest.raises(ValueError, match=f"{successes} successes out of {trials}"):
        wilson_interval(successes, trials)


def test_prompt_accuracy_counts_pictures_with_every_attribute():
    verdicts = torch.tensor([[True, True], [True, False], [False, True], [True, True], [False, False]])
    share, interval = prompt_accuracy(verdicts)
    assert share == 0.4 and interval == wilson_interval(2, 5)


@pytest.mark.parametrize("chunk", [1, 3, 7, 20, 21, 1000])
@pytest.mark.parametrize("integers", [False, True])
def test_nearest_distances_agree_with_brute_force(chunk, integers):
    generator = torch.Generator().manual_seed(12)
    if integers:
        images = torch.randint(0, 256, (9, 3, 4, 4), generator=generator, dtype=torch.uint8)
        reference = torch.randint(0, 256, (21, 3, 4, 4), generator=generator, dtype=torch.uint8)
    else:
        images = torch.randn(9, 3, 4, 4, generator=generator)
        reference = torch.randn(21, 3, 4, 4, generator=generator)
    images[2], images[5] = reference[20], reference[0]  # copies in the last and the first chunk
    distance, place = nearest_distances(images, reference, chunk)
    x, y = images.numpy().astype(np.float64), reference.numpy().astype(np.float64)
    table = np.sqrt(((x[:, None] - y[None]) ** 2).mean((2, 3, 4)))
    np.testing.assert_array_equal(place.numpy(), table.argmin(1))
    np.testing.assert_allclose(distance.numpy(), table.min(1), rtol=1e-5, atol=1e-6)
    assert distance[2] == 0 and place[2] == 20 and distance[5] == 0 and place[5] == 0


def test_the_nearest_of_bright_bytes_is_found_to_the_last_grey_level():
    """‖a‖² of a picture of bytes is some 10⁸, beyond float32's whole numbers: a copy must win over a near-copy."""
    image = torch.full((1, 3, 32, 32), 251, dtype=torch.uint8)
    reference = image.repeat(8, 1, 1, 1)
    for place in (0, 1, 2, 3, 4, 6, 7):  # place 5 stays a copy
        reference[place, 0, 0, place] -= 1
    distance, place = nearest_distances(image, reference)
    assert distance.item() == 0 and place.item() == 5


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (5, 3, 4, 5)])
def test_neighbours_need_a_reference_of_the_same_shape(shape):
    with pytest.raises(ValueError, match="same shape"):
        nearest_distances(torch.zeros(2, 3, 4, 4), torch.zeros(shape))


def reached(points: np.ndarray, reference: np.ndarray, k: int) -> float:
    """The share of points within some reference point's distance to its own k-th neighbour: one pair at a time."""
    radii = [sorted(np.linalg.norm(reference - one, axis=1))[k] for one in reference]  # [0] is the point itself
    inside = [any(np.linalg.norm(p - one) <= r for one, r in zip(reference, radii, strict=True)) for p in points]
    return sum(inside) / len(inside)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_precision_and_recall_by_brute_force(k):
    generator = torch.Generator().manual_seed(20)
    real = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    generated = 0.6 * torch.randn(40, 3, generator=generator, dtype=torch.float64) + 0.5
    wanted = reached(generated.numpy(), real.numpy(), k), reached(real.numpy(), generated.numpy(), k)
    assert precision_recall(real, generated, k) == pytest.approx(wanted)
    assert wanted[0] > wanted[1]  # drawn more narrowly than the data: each looks real, not all is reached
    assert precision_recall(generated, real, k) == pytest.approx(wanted[::-1])
    assert k != 2 or precision_recall(real, generated) != precision_recall(real, generated, k)  # k is 3 unless said


def test_precision_and_recall_of_what_is_known():
    real = torch.arange(10.0)[:, None] * torch.ones(1, 2)
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, real + 100) == (0.0, 0.0)
    assert precision_recall(real, real, 3) == precision_recall(real, real)
    crowd = torch.zeros(10, 2) + torch.arange(10)[:, None] * 1e-6 + 4.5  # one place among the data
    assert precision_recall(real, crowd) == (1.0, 0.0)
    edge = torch.tensor([[0.0], [1.0], [2.0], [4.0]])
    assert precision_recall(edge, torch.tensor([[5.0], [6.5], [3.0]]), 1) == (2 / 3, 0.75)  # 1 is on the rim around 3


def test_precision_and_recall_tell_points_apart_that_are_close():
    """Far from the origin, where ‖a‖² − 2 a·b + ‖b‖² has no digits left."""
    near = torch.arange(6.0)[:, None] * torch.ones(1, 4) + 4096.0
    assert precision_recall(near, near + 0.5, 1) == (1.0, 1.0)
    assert precision_recall(near[:5], near[1:] + 1.5, 1)[0] == 0.6


@pytest.mark.parametrize(
    ("first", "second", "k"), [((5, 3), (5, 4), 1), ((5,), (5,), 1), ((4, 2), (9, 2), 4), ((9, 2), (4, 2), 0)]
)
def test_precision_and_recall_refuse_what_does_not_fit(first, second, k):
    with pytest.raises(ValueError) as error:
        precision_recall(torch.zeros(first), torch.zeros(second), k)
    assert str(first[0]) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_precision_and_recall_refuse_what_is_not_finite(value):
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(9))
    broken = x.clone()
    broken[2, 0] = value
    for pair in ((broken, x), (x, broken)):
        with pytest.raises(ValueError, match="not finite"):
            precision_recall(*pair)
