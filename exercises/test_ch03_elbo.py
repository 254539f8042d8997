"""Checks of chapter 03's exercises."""

import math

import torch
from checks import agree, differ_from, several, shaped

JOINT = torch.tensor([[0.20, 0.05, 0.10], [0.01, 0.30, 0.02], [0.07, 0.07, 0.07], [0.40, 0.10, 0.20]], dtype=torch.float64)
BELIEF = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]], dtype=torch.float64)
EVIDENCE = JOINT.sum(1).log()
POSTERIOR = JOINT / JOINT.sum(1, keepdim=True)
COUNTS = torch.tensor([0.0, 1.0, 3.0, 7.0, 20.0], dtype=torch.float64)
M = torch.tensor([-0.4, 0.1, 0.6, 1.5, 2.8], dtype=torch.float64)
V = torch.tensor([0.9, 0.5, 0.3, 0.2, 0.05], dtype=torch.float64)
Z = torch.linspace(-14, 14, 20001, dtype=torch.float64)


def _elbo_by_quadrature(x, m, v):
    """∫ q (log p(x | z) + log p(z) − log q) dz for one count, by the trapezium rule."""
    log_q = -0.5 * (math.log(2 * math.pi) + math.log(v) + (Z - m) ** 2 / v)
    log_joint = x * Z - torch.exp(Z) - math.lgamma(x + 1) - 0.5 * (math.log(2 * math.pi) + Z**2)
    return torch.trapezoid(torch.where(log_q > -700, log_q.exp() * (log_joint - log_q), 0), Z)


def test_elbo_of_table(answer):
    got = shaped(answer.elbo_of_table(JOINT, BELIEF), (4,), "elbo_of_table")
    wanted = torch.tensor(
        [
            sum(q * (math.log(p) - math.log(q)) for p, q in zip(*rows, strict=True))
            for rows in zip(JOINT.tolist(), BELIEF.tolist(), strict=True)
        ]
    )
    differ_from(got, -wanted, "that is −ELBO: joint over q, not q over joint")
    differ_from(got, (BELIEF * JOINT.log()).sum(1), "the entropy of q is missing: it is log joint minus log q")
    differ_from(got, (JOINT * (JOINT / BELIEF).log()).sum(1), "the average is over q, not over the joint")
    differ_from(got, EVIDENCE, "that is log p(x), which q does not enter: the bound should depend on the belief")
    differ_from(got, wanted / 3, "an expectation over q is a weighted sum; do not divide it by K as well")
    agree(got, wanted, "elbo_of_table")
    agree(answer.elbo_of_table(JOINT, POSTERIOR), EVIDENCE, "elbo_of_table at the posterior, where it is log p(x)")


def test_elbo_of_table__beliefs_that_rule_out(answer):
    joint = torch.tensor([[0.2, 0.0, 0.1], [0.3, 0.4, 0.1], [1e-12, 0.5, 0.1]], dtype=torch.float64)
    q = torch.tensor([[0.4, 0.0, 0.6], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], dtype=torch.float64)
    kept = joint.clone(), q.clone()
    got = answer.elbo_of_table(joint, q)
    assert torch.equal(joint, kept[0]) and torch.equal(q, kept[1]), "the arguments themselves were changed: work on copies"
    assert got is None or bool(got.isfinite().all()), "where q(z) = 0 a value adds nothing; here a logarithm of 0 got through"
    wanted = [0.4 * math.log(0.5) + 0.6 * math.log(1 / 6), math.log(0.3), 0.5 * math.log(2e-12)]
    agree(shaped(got, (3,), "elbo_of_table"), wanted, "elbo_of_table with q(z) = 0 somewhere, and a tiny p(x, z)")


def test_poisson_elbo(answer):
    got = answer.poisson_elbo(COUNTS, M, V)
    assert got is None or bool(got.isfinite().all()), "infinite or no number: at x = 0, is it lgamma(x + 1)?"
    got = shaped(got, (5,), "poisson_elbo")
    wanted = torch.stack([_elbo_by_quadrature(*row) for row in zip(COUNTS.tolist(), M.tolist(), V.tolist(), strict=True)])
    seen, matching = COUNTS * M - torch.exp(M + V / 2) - torch.lgamma(COUNTS + 1), 0.5 * (M**2 + V - 1 - V.log())
    differ_from(got, wanted + torch.exp(M + V / 2) - torch.exp(M), "E_q[exp(z)] is not exp(E_q[z]): Jensen, again")
    differ_from(got, seen + matching, "prior matching is subtracted: a belief far from the prior is paid for")
    differ_from(got, seen - 2 * matching, "the KL between Gaussians has a factor ½")
    differ_from(got, wanted + torch.lgamma(COUNTS + 1), "log x! is missing: then it is no bound on log p(x)")
    differ_from(got, wanted + torch.exp(M + V / 2) - torch.exp(M + V), "E_q[exp(z)] = exp(m + v/2): the variance is halved")
    differ_from(got, seen, "that is the reconstruction alone: prior matching is still to be subtracted")
    differ_from(got, wanted - 0.5, "a constant is off: the KL between Gaussians has a − 1")
    as_deviation = COUNTS * M - torch.exp(M + V**2 / 2) - torch.lgamma(COUNTS + 1) - 0.5 * (M**2 + V**2 - 1 - 2 * V.log())
    differ_from(got, as_deviation, "v is the variance of q, not its standard deviation")
    agree(got, wanted, "poisson_elbo")


def test_fit_belief(answer):
    counts = torch.tensor([0.0, 1.0, 4.0, 15.0, 50.0], dtype=torch.float64)
    m, v = several(answer.fit_belief(counts), 2, "fit_belief")
    m, v = shaped(m, (5,), "m"), shaped(v, (5,), "v")
    best = [_best_belief(x) for x in counts.tolist()]
    right_m, right_v = torch.tensor([b[0] for b in best]), torch.tensor([b[1] for b in best])
    laplace = torch.tensor([_mode(x) for x in counts.tolist()])
    differ_from(m, laplace, "that is Laplace's fit: the posterior's mode and its curvature there; the ELBO averages over q", 1e-4)
    if bool(((m - right_m).abs() < 2e-3).all()):
        differ_from(v, right_v.log(), "v is a variance. Did you return log v?", 2e-3)
        differ_from(v, right_v.sqrt(), "v is a variance. Did you return its root?", 2e-3)
        differ_from(v, 1 / right_v, "v is a variance. Did you return its inverse, the precision?", 2e-3)
    swapped = bool(((v - right_m).abs() < 2e-3).all() and ((m - right_v).abs() < 2e-3).all())
    assert not swapped, "m comes first, then v"
    assert bool((v > 0).all()), "v is a variance: it must be positive. Climbing in log v keeps it so"
    for x, mean, variance, (there_m, there_v) in zip(counts.tolist(), m.tolist(), v.tolist(), best, strict=True):
        near = abs(mean - there_m) < 1.1e-3 and abs(variance - there_v) < 1.1e-3 * max(there_v, 0.1)
        here, there = _elbo_by_quadrature(x, mean, variance).item(), _elbo_by_quadrature(x, there_m, there_v).item()
        found = f"x = {x:g}: at m = {mean:.4f}, v = {variance:.4f} the ELBO is {here:.5f}, and elsewhere it reaches {there:.5f}"
        assert near, f"{found}. Climb on (and if you climb poisson_elbo: does ch03.2 pass?)"


def _mode(x):
    """Where the posterior of a count is highest: z = x − exp(z), by bisection."""
    low, high = -50.0, 10.0
    for _ in range(200):
        z = (low + high) / 2
        low, high = (z, high) if z < x - math.exp(z) else (low, z)
    return z


def _best_belief(x):
    """The best m and v for a count, by a search that needs no derivative: ever smaller steps along m and log v."""
    at, step = [_mode(x), math.log(0.5)], 0.5
    best = _elbo_by_quadrature(x, at[0], math.exp(at[1]))
    while step > 1e-5:
        moves = [(at[0] + i * step, at[1] + j * step) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        values = [_elbo_by_quadrature(x, m, math.exp(log_v)) for m, log_v in moves]
        place = max(range(9), key=values.__getitem__)
        if values[place] > best + 1e-13:
            at, best = list(moves[place]), values[place]
        else:
            step /= 2
    return at[0], math.exp(at[1])


def test_two_draw_bound(answer):
    got = shaped(answer.two_draw_bound(JOINT, BELIEF), (4,), "two_draw_bound")
    wanted, single = [], []
    for p, q in zip(JOINT.tolist(), BELIEF.tolist(), strict=True):
        w = [a / b for a, b in zip(p, q, strict=True)]
        wanted.append(sum(q[i] * q[j] * math.log((w[i] + w[j]) / 2) for i in range(3) for j in range(3)))
        single.append(sum(b * math.log(a) for a, b in zip(w, q, strict=True)))
    different = [
        sum(q[i] * q[j] * math.log((p[i] / q[i] + p[j] / q[j]) / 2) for i in range(3) for j in range(3) if i != j)
        for p, q in zip(JOINT.tolist(), BELIEF.tolist(), strict=True)
    ]
    differ_from(got, single, "that is L_1, the ELBO: the logarithm comes after the average of the two weights")
    differ_from(got, torch.tensor(wanted) + math.log(2), "the two weights are averaged, not added: ½ is missing")
    differ_from(got, different, "two independent draws may agree: pairs with i = j count too")
    differ_from(got, EVIDENCE, "that is log p(x): the logarithm must be taken inside the expectation")
    ordered = [
        sum(q[i] * q[j] * math.log((p[i] / q[i] + p[j] / q[j]) / 2) for i in range(3) for j in range(i + 1))
        for p, q in zip(JOINT.tolist(), BELIEF.tolist(), strict=True)
    ]
    differ_from(got, ordered, "two different values can be drawn in either order: count both")
    agree(got, wanted, "two_draw_bound")
    assert bool((got > torch.tensor(single)).all() and (got < EVIDENCE).all()), "L_1 < L_2 < log p(x)"


def test_upper_bound(answer):
    got = shaped(answer.upper_bound(JOINT, BELIEF), (4,), "upper_bound")
    mean_square = torch.tensor(
        [sum(a * a / b for a, b in zip(p, q, strict=True)) for p, q in zip(JOINT.tolist(), BELIEF.tolist(), strict=True)]
    )
    differ_from(got, mean_square.log(), "that bounds 2 log p(x): halve it")
    differ_from(got, (BELIEF * JOINT**2).sum(1).log() / 2, "w is p(x, z)/q(z): the square of q divides")
    differ_from(got, (BELIEF * (JOINT / BELIEF).log()).sum(1), "that is the ELBO, a bound from below")
    differ_from(got, (BELIEF * ((JOINT / BELIEF) ** 2).log()).sum(1) / 2, "the logarithm comes last, after the average over q")
    differ_from(got, EVIDENCE, "that is log p(x) itself; wanted is the bound that follows from u²")
    another = bool((got > EVIDENCE).all()) and bool((answer.upper_bound(JOINT, POSTERIOR) - EVIDENCE).abs().max() < 1e-9)
    right = bool((got - mean_square.log() / 2).abs().max() < 1e-6)
    assert right or not another, "a bound from above, tight at the posterior, but not the one that follows from u²"
    agree(got, mean_square.log() / 2, "upper_bound")
    assert bool((got >= EVIDENCE).all()), "below log p(x): no upper bound"
    agree(answer.upper_bound(JOINT, POSTERIOR), EVIDENCE, "upper_bound at the posterior, where it is log p(x)")
