"""Checks of chapter 02's exercises."""

import math

import torch
from checks import agree, differ_from, number, several, shaped

LINE = (torch.arange(6000, dtype=torch.float64) + 0.5) / 200 - 12  # −12 … 18
CELL = 1 / 200


def _bell(x, mean, std):
    """log N(x; mean, std²), from the formula."""
    return -0.5 * ((x - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))


P, Q = _bell(LINE, 0.0, 1.0), _bell(LINE, 1.2, 0.7)


def test_discriminator_for_shares(answer):
    places, share = slice(1900, 3300, 200), 0.2
    p, q = P[places], Q[places]
    got = shaped(answer.discriminator_for_shares(p, q, share), p.shape, "discriminator_for_shares")
    tries = torch.linspace(1e-5, 1 - 1e-5, 100_001, dtype=torch.float64)
    won = share * p[:, None].exp() * tries.log() + (1 - share) * q[:, None].exp() * torch.log1p(-tries)
    wanted = tries[won.argmax(1)]
    ratio = p.exp() / q.exp()
    logit = (share / (1 - share) * ratio).log()
    differ_from(got, ratio / (1 + ratio), "that is D* for equal shares: the share does not enter", 1e-4)
    differ_from(got, 1 / (1 + share / (1 - share) / ratio), "the shares are exchanged: `share` is that of the real points", 1e-4)
    differ_from(got, 1 - wanted, "that is the probability of being generated", 1e-4)
    differ_from(got, logit, "that is the logit of D*: a probability is wanted", 1e-4)
    differ_from(got, share * ratio / (1 + ratio), "the share belongs into the maximisation; D*'s denominator changes too", 1e-4)
    differ_from(got, 1 / (1 + 1 / (ratio * share)), "the generated points have a share as well: 1 − share", 1e-4)
    agree(got, wanted, "discriminator_for_shares", 2e-5)


def test_discriminator_for_shares__far_from_all_data(answer):
    low = torch.tensor([-5000.0, -4000.0, -3.0], dtype=torch.float64)
    got = answer.discriminator_for_shares(low, low - torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64), 0.7)
    assert got is None or bool(got.isfinite().all()), "no number: at −5000 both densities are 0; stay in the logarithms"
    odds = [7 / 3 * math.exp(difference) for difference in (2.0, -1.0, 0.0)]
    wanted = [each / (1 + each) for each in odds]
    agree(shaped(got, (3,), "discriminator_for_shares"), wanted, "discriminator_for_shares at log-densities down to −5000", 1e-9)


def test_hinge_value(answer):
    p, q = P.exp(), Q.exp()
    got = number(answer.hinge_value(P, Q, CELL), "hinge_value")
    tries = torch.linspace(-3, 3, 601, dtype=torch.float64)  # it contains −1 and 1
    each = p[:, None] * (tries - 1).clamp(max=0) + q[:, None] * (-1 - tries).clamp(max=0)
    wanted = CELL * each.amax(1).sum().item()
    apart = 0.5 * CELL * (p - q).abs().sum().item()  # total variation
    m = (p + q) / 2
    divergence = 0.5 * CELL * (p * (P - m.log()) + q * (Q - m.log())).sum().item()
    differ_from(got, 2 * divergence - math.log(4), "that is (02.6), the value of the logarithmic game", 1e-4)
    differ_from(got, apart, "that is the total variation; the value follows from it by a factor and a constant", 1e-4)
    differ_from(got, 2 * apart, "the constant is missing: even where p = q, each point costs 1", 1e-4)
    differ_from(got, -wanted, "the sign: both expectations are at most 0", 1e-4)
    differ_from(got, wanted / CELL, "an integral over a grid: multiply the sum by the size of a cell", 1e-4)
    differ_from(got, wanted / 2, "half of it: at D = ±1 one hinge is 0 and the other is −2, not −1", 1e-4)
    differ_from(got, -CELL * torch.minimum(p, q).sum().item() - 1, "the middle piece is (a − b)D − (a + b): insert D = ±1", 1e-4)
    at_zero = -CELL * (p + q).sum().item()
    differ_from(got, at_zero, "that is V at D = 0: where p and q differ, D does better at an end of the middle piece", 1e-4)
    best = p / (p + q)
    with_probability = CELL * (p * (best - 1) + q * (-1 - best)).sum().item()
    differ_from(got, with_probability, "D* of (02.4) belongs to another game: here D may be any number", 1e-4)
    agree(got, wanted, "hinge_value", 1e-5)


def test_hinge_value__at_its_limits(answer):
    agree(number(answer.hinge_value(P, P, CELL), "hinge_value"), -2, "hinge_value where the two agree", 1e-6)
    apart = number(answer.hinge_value(P, _bell(LINE, 12.0, 0.4), CELL), "hinge_value")
    agree(apart, 0, "hinge_value where they do not overlap", 1e-6)


def test_folded_log_prob(answer):
    x, c = torch.tensor([0.01, 0.3, 1.0, 2.5, 6.0], dtype=torch.float64), 0.6
    got = shaped(answer.folded_log_prob(x, c), x.shape, "folded_log_prob")

    def below(value):
        """P(X ≤ value): z between c − √value and c + √value."""
        root = math.sqrt(value)
        return 0.5 * (math.erf((c + root) / math.sqrt(2)) - math.erf((c - root) / math.sqrt(2)))

    steps = [(v, 1e-5 * v) for v in x.tolist()]
    wanted = torch.tensor([(below(v + h) - below(v - h)) / (2 * h) for v, h in steps], dtype=torch.float64).log()
    root = x.sqrt()
    upper, lower = _bell(c + root, 0.0, 1.0), _bell(c - root, 0.0, 1.0)
    both = torch.logaddexp(upper, lower)
    for one in (upper, lower):
        differ_from(got, one - torch.log(2 * root), "one preimage is forgotten: z − c may be +√x and −√x", 1e-5)
    differ_from(got, both, "the Jacobian is missing: intervals of z and of x have different lengths", 1e-5)
    differ_from(got, both + torch.log(2 * root), "the Jacobian is turned over: where dx/dz is large, x is spread thin", 1e-5)
    differ_from(got, both - math.log(2) - torch.log(2 * root), "the probabilities add; they are not averaged", 1e-5)
    differ_from(got, upper + lower - torch.log(2 * root), "probabilities add, not their logarithms", 1e-5)
    differ_from(got, both - root.log(), "dx/dz = 2(z − c): the 2 is missing", 1e-5)
    differ_from(got, both - torch.log(2 * x), "the Jacobian is taken at the wrong place: |z − c| is √x, not x", 1e-5)
    differ_from(got, wanted.exp(), "that is the density; its logarithm is wanted", 1e-5)
    agree(got, wanted, "folded_log_prob", 1e-6)
    tails = answer.folded_log_prob(torch.tensor([2500.0], dtype=torch.float64), c)
    assert bool(tails.isfinite().all()), "at x = 2500 the density rounds to 0, its logarithm is finite: use logsumexp"


LOWER = torch.tensor([[0.8, 0.0, 0.0], [0.5, -1.3, 0.0], [-0.7, 0.4, 2.1]], dtype=torch.float64)
SHIFT = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
POINTS = torch.tensor([[0.1, 0.2, 0.3], [1.0, -2.0, 0.5], [-0.4, 0.7, 2.0], [2.0, 1.5, -1.0]], dtype=torch.float64)


def test_triangular_log_prob(answer):
    given = LOWER.clone(), SHIFT.clone(), POINTS.clone()
    raw = answer.triangular_log_prob(POINTS, LOWER, SHIFT)
    same = all(torch.equal(a, b) for a, b in zip(given, (LOWER, SHIFT, POINTS), strict=True))
    assert same, "the arguments themselves were changed: work on copies"
    assert raw is None or bool(raw.isfinite().all()), "no number: the diagonal may be negative; the determinant's size is wanted"
    got = shaped(raw, (4,), "triangular_log_prob")
    wanted = torch.distributions.MultivariateNormal(SHIFT, covariance_matrix=LOWER @ LOWER.T).log_prob(POINTS)
    log_det = math.log(0.8 * 1.3 * 2.1)
    z = torch.linalg.inv(LOWER) @ (POINTS - SHIFT).T
    forwards = _bell((POINTS - SHIFT) @ LOWER.T, 0.0, 1.0).sum(1)
    differ_from(got, wanted + log_det, "the log-determinant is missing: this does not integrate to one")
    differ_from(got, wanted + 2 * log_det, "the log-determinant's sign: L runs from noise to data, (02.9) from data to noise")
    differ_from(got, wanted - log_det, "the log-determinant is counted twice: ½ log det LLᵀ is log |det L|")
    differ_from(got, forwards - log_det, "L was applied to x; the noise is L⁻¹(x − b)")
    differ_from(got, forwards + log_det, "the map is turned round: x = L z + b, so z = L⁻¹(x − b)")
    differ_from(got, _bell(z, 0.0, 1.0).sum(0) + 1.5 * math.log(2 * math.pi) - log_det, "the Gaussian's own constant is missing")
    unshifted = torch.linalg.inv(LOWER) @ POINTS.T - SHIFT[:, None]
    differ_from(got, _bell(unshifted, 0.0, 1.0).sum(0) - log_det, "first take away the shift, then undo L: the other order")
    transposed = torch.linalg.inv(LOWER.T) @ (POINTS - SHIFT).T
    differ_from(got, _bell(transposed, 0.0, 1.0).sum(0) - log_det, "that solves with Lᵀ: rows of x are points, columns of z too?")
    differ_from(got, wanted / 3, "a log-density is summed over dimensions, not averaged")
    agree(got, wanted, "triangular_log_prob")


W, U = torch.tensor([1.1, -0.6, 0.4], dtype=torch.float64), torch.tensor([0.7, 0.5, -0.3], dtype=torch.float64)


def _jacobians(x, w, u, b):
    """∂y/∂x at each x, by central differences of the definition: N×D×D."""
    h, columns = 1e-5, []
    for d in range(x.shape[1]):
        step = h * torch.eye(x.shape[1], dtype=torch.float64)[d]
        there, here = (p + u * torch.tanh((p * w).sum(1, keepdim=True) + b) for p in (x + step, x - step))
        columns.append((there - here) / (2 * h))
    return torch.stack(columns, 2)


def test_planar(answer):
    y, log_det = several(answer.planar(POINTS, W, U, 0.2), 2, "planar")
    a = (POINTS * W).sum(1) + 0.2
    bent, slope, dot = torch.tanh(a), 1 - torch.tanh(a) ** 2, (W * U).sum()
    right = POINTS + bent[:, None] * U
    y = shaped(y, (4, 3), "y")
    differ_from(y, bent[:, None] * U, "x itself is missing from y")
    differ_from(y, POINTS + torch.tanh(POINTS * W + 0.2) * U, "w·x is a dot product: one number for each x")
    differ_from(y, POINTS + bent[:, None] * W, "the move goes along u, not along w")
    agree(y, right, "y")
    log_det = shaped(log_det, (4,), "log_det")
    wanted = torch.linalg.slogdet(_jacobians(POINTS, W, U, 0.2))[1]
    differ_from(log_det, (1 + slope * dot).abs(), "that is the determinant; its logarithm is wanted")
    differ_from(log_det, -wanted, "the sign: ∂y/∂x is wanted, not the inverse map's", 1e-7)
    differ_from(log_det, torch.log((1 + bent * dot).abs()), "the derivative of tanh is 1 − tanh², not tanh")
    differ_from(log_det, torch.log((1 + dot).abs()).expand(4), "the derivative of tanh is missing")
    differ_from(log_det, torch.log((slope * dot).abs()), "the identity is missing: y = x + …")
    diagonal = torch.log((1 + slope[:, None] * W * U).abs()).sum(1)
    differ_from(log_det, diagonal, "that is the diagonal alone: this Jacobian is not triangular")
    differ_from(log_det, torch.log((1 + slope * (W * W).sum()).abs()), "that is w·w; the matrix is the product of u and w")
    agree(log_det, wanted, "log_det", 1e-7)


def test_planar__turned_inside_out(answer):
    """With w·u < −1 the determinant may be negative: the map folds, and its size still has a logarithm."""
    _, log_det = several(answer.planar(POINTS, W, -2 * W, -0.5), 2, "planar")
    assert bool(log_det.isfinite().all()), "no number: where the determinant is negative, its size is wanted, |det|"
    wanted = torch.linalg.slogdet(_jacobians(POINTS, W, -2 * W, -0.5))[1]
    agree(shaped(log_det, (4,), "log_det"), wanted, "log_det with w·u < −1", 1e-6)


def test_planar__in_many_dimensions(answer):
    generator = torch.Generator().manual_seed(0)
    x, w, u = (torch.randn(*shape, 7, generator=generator, dtype=torch.float64) / 2 for shape in ((5,), (), ()))
    _, log_det = several(answer.planar(x, w, u, 0.0), 2, "planar")
    agree(shaped(log_det, (5,), "log_det"), torch.linalg.slogdet(_jacobians(x, w, u, 0.0))[1], "log_det in 7 dimensions", 1e-7)
