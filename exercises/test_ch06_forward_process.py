"""Checks of chapter 06's exercises."""

import itertools
import math

import torch
from checks import agree, differ_from, doubles, several

BETA = torch.tensor([0.0, 0.02, 0.05, 0.1, 0.08, 0.2, 0.3, 0.25, 0.4, 0.6, 0.7], dtype=torch.float64)  # ten coarse steps
T = len(BETA) - 1
ALPHA_BAR = torch.tensor([math.prod((1 - BETA[: t + 1]).tolist()) for t in range(T + 1)], dtype=torch.float64)
LOG_SNR = 0.5 * torch.log(ALPHA_BAR[1:] / (1 - ALPHA_BAR[1:]))  # λ_1 … λ_T


def test_alpha_bar_of(answer):
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float32)
    kept = beta.clone()
    got = answer.alpha_bar_of(beta)
    assert torch.equal(beta, kept), "the argument itself was changed: work on a copy"
    assert got is None or tuple(got.shape) != (1000,), "one entry for each t = 0 … T, so T + 1 of them: ᾱ_0 = 1 is missing"
    got = doubles(got, (1001,), "alpha_bar_of")
    wanted, product = [1.0], 1.0
    for each in beta.tolist():
        product *= 1 - each
        wanted.append(product)
    wanted = torch.tensor(wanted, dtype=torch.float64)
    alpha = torch.cat([torch.ones(1), 1 - beta]).double()
    differ_from(got, alpha, "that is α_t, what one step leaves; ᾱ_t is what all steps up to t leave together")
    differ_from(got, wanted.sqrt(), "that is the signal rate a_t: ᾱ_t is its square, the product itself")
    differ_from(got, torch.exp(torch.cat([torch.zeros(1), -beta]).double().cumsum(0)), "exp(−Σβ) is near, but not the product")
    differ_from(got, 1 - torch.cat([torch.zeros(1), beta]).double().cumsum(0), "1 − Σβ: factors multiply, they do not add")
    differ_from(got, torch.cat([wanted[1:], wanted[:1]]), "the 1 stands at the end: ᾱ_0 is the first entry", 1e-9)
    late = torch.cat([wanted[:1], wanted[:-1]])
    differ_from(got, late, "one place late: ᾱ_1 is already 1 − β_1", 1e-9)
    differ_from(got, torch.cat([torch.ones(1).double(), beta.double().cumprod(0)]), "a product of β; it is one of 1 − β")
    in_float32 = torch.cumprod(torch.cat([torch.ones(1), 1 - beta]), 0).double()
    differ_from(got, in_float32, "the product was taken in float32: convert β first, not the result", 1e-13)
    subtracted = torch.cat([torch.ones(1).double(), (1 - beta).double().cumprod(0)])
    differ_from(got, subtracted, "1 − β was subtracted in float32: convert β first, not the difference", 1e-13)
    agree(got, wanted, "alpha_bar_of", 1e-12)


FACTORS = torch.tensor([1.0, 0.9, 1.1, 0.8, 0.95, 0.7, 1.2, 0.85, 0.6, 0.9, 0.75], dtype=torch.float64)
ADDED = torch.tensor([0.0, 0.3, 0.2, 0.5, 0.1, 0.4, 0.6, 0.3, 0.7, 0.2, 0.5], dtype=torch.float64)  # FACTORS² + ADDED² is not 1


def _merged(answer, c, d, times):
    got = several(answer.merged(c.clone(), d.clone(), torch.tensor(times)), 2, "merged")
    return [doubles(each, (len(times),), f"merged, {name}") for each, name in zip(got, "CD", strict=True)]


def _per_jump(times, of, first):
    return torch.tensor([first, *(float(of(s, t)) for s, t in itertools.pairwise(times))], dtype=torch.float64)


def _walked(c, d, start, end):
    """The variance after the steps start + 1 … end, if all mass was at one place before: one by one."""
    variance = 0.0
    for factor, deviation in zip(c[start + 1 : end + 1].tolist(), d[start + 1 : end + 1].tolist(), strict=True):
        variance = factor**2 * variance + deviation**2
    return variance


def test_merged(answer):
    c, d = FACTORS, ADDED
    for times in ([0, 1, 3, 4, 8, 10], [0, 2, 5, 9]):  # to the end, and not to the end
        left, added = _merged(answer, c, d, times)
        factor = _per_jump(times, lambda s, t: c[s + 1 : t + 1].prod(), 1)
        deviation = _per_jump(times, lambda s, t: math.sqrt(_walked(c, d, s, t)), 0)

        late_start = _per_jump(times, lambda s, t: c[s:t].prod(), 1)
        differ_from(left[2:], late_start[2:], "a jump from s to t does the steps s + 1 … t, not s … t − 1")
        differ_from(left, c[times], "that is c at the chosen times: one short step where many are to be done")
        differ_from(left, _per_jump(times, lambda s, t: c[: t + 1].prod(), 1), "that is all factors since t = 0")
        differ_from(left, factor**2, "that is C_k², what is left of the variance: the factor is its root")
        agree(left, factor, "merged, C")

        differ_from(added, d[times], "that is d at the chosen times: one short step where many are to be done")
        total = _per_jump(times, lambda s, t: d[s + 1 : t + 1].square().sum().sqrt(), 0)
        differ_from(added, total, "the d² were only added: noise that came early is multiplied by the later c")
        differ_from(added, deviation**2, "that is D_k², the variance: take the root")
        differ_from(added, (1 - factor**2).clamp(min=0).sqrt(), "√(1 − C_k²) is right only for a chain with c² + d² = 1")
        whole = _per_jump(times, lambda s, t: math.sqrt(_walked(c, d, 0, t)), 0)
        differ_from(added, whole, "that is all noise since t = 0; D_k is what the k-th jump adds")
        gained = _per_jump(times, lambda s, t: math.sqrt(max(_walked(c, d, 0, t) - _walked(c, d, 0, s), 0.0)), 0)
        differ_from(added, gained, "a difference of the noise at both ends: what x_s holds, the jump multiplies by C_k")
        agree(added, deviation, "merged, D")
    left, added = _merged(answer, c, d, list(range(T + 1)))
    agree(left, c, "merged when no time is left out, where C is c itself")
    agree(added, d, "merged when no time is left out, where D is d itself")


def test_merged__of_the_chain_that_preserves_variance(answer):
    times = [0, 3, 4, 9]
    left, added = _merged(answer, (1 - BETA).sqrt(), BETA.sqrt(), times)
    share = _per_jump(times, lambda s, t: ALPHA_BAR[t] / ALPHA_BAR[s], 1)
    agree(left, share.sqrt(), "merged, C, of a chain with c² + d² = 1, where it is a_t/a_s")
    agree(added, (1 - share).sqrt(), "merged, D, of a chain with c² + d² = 1, where it is √(1 − ᾱ_t/ᾱ_s)")


def test_time_of_snr(answer):
    snr = torch.tensor([1.0, 0.1, 0.3, 3.0, 20.0], dtype=torch.float64)
    got = doubles(answer.time_of_snr(ALPHA_BAR.clone(), snr), (5,), "time_of_snr")
    wanted = torch.tensor([_time(0.5 * math.log(each)) for each in snr.tolist()], dtype=torch.float64)
    differ_from(got, wanted.floor(), "a whole number: between two steps there is more, (06.7)")
    differ_from(got, wanted.ceil(), "a whole number: between two steps there is more, (06.7)")
    differ_from(got, wanted.round(), "a whole number: between two steps there is more, (06.7)")
    differ_from(got, wanted - 1, "one too early: without its entry at 0, a table's index i belongs to t = i + 1")
    differ_from(got, wanted + 1, "one too late: which entry is t = 1?")
    turned = wanted.floor() + wanted.ceil() - wanted
    differ_from(got, turned, "the weight is the wrong way round: w = 0 is the earlier step, w = 1 the later")
    no_root = torch.log(ALPHA_BAR[1:] / (1 - ALPHA_BAR[1:]).sqrt())
    half_rooted = torch.tensor([_between(no_root, 0.5 * math.log(each)) for each in snr.tolist()], dtype=torch.float64)
    differ_from(got, half_rooted, "λ was taken as log(ᾱ/σ): the signal rate is the root of ᾱ")
    in_alpha_bar = torch.tensor([_between(ALPHA_BAR[1:], each / (1 + each)) for each in snr.tolist()], dtype=torch.float64)
    differ_from(got, in_alpha_bar, "a straight line in ᾱ; (06.7) has one in λ")
    in_snr = torch.tensor([_between(torch.exp(2 * LOG_SNR), each) for each in snr.tolist()], dtype=torch.float64)
    differ_from(got, in_snr, "a straight line in the SNR; (06.7) has one in its logarithm")
    in_range = [_time(math.log(each)) if LOG_SNR[-1] <= math.log(each) <= LOG_SNR[0] else math.nan for each in snr.tolist()]
    doubled = torch.tensor(in_range, dtype=torch.float64)
    known = doubled.isfinite() & (snr != 1)
    differ_from(got[known], doubled[known], "λ is half the logarithm of the SNR: here it was taken for all of it")
    agree(got, wanted, "time_of_snr")


def test_time_of_snr__at_the_steps_themselves(answer):
    snr = ALPHA_BAR[1:] / (1 - ALPHA_BAR[1:])
    got = answer.time_of_snr(ALPHA_BAR.clone(), snr)
    assert got is None or bool(got.isfinite().all()), "not finite where the ratio is that of a step: 0/0, or the λ of t = 0?"
    agree(doubles(got, (T,), "time_of_snr"), torch.arange(1, T + 1).double(), "time_of_snr at the steps, 1 and T included")


def _time(log_snr):
    """The time at which λ, on straight lines between integers, is this: by bisection."""
    return _between(LOG_SNR, log_snr)


def _between(table, value):
    """Where a falling table (entry i at t = i + 1), on straight lines between its entries, has a value: by bisection."""
    low, high = 1.0, float(T)
    for _ in range(100):
        t = (low + high) / 2
        below = min(int(t), T - 1)
        here = table[below - 1] + (t - below) * (table[below] - table[below - 1])
        low, high = (t, high) if here > value else (low, t)
    return (low + high) / 2


def test_exploding_twin(answer):
    got = doubles(answer.exploding_twin(ALPHA_BAR.clone()), (T + 1,), "exploding_twin")
    wanted, level = [0.0], 0.0
    for t in range(1, T + 1):  # x/a holds noise of this variance after each step of the chain
        variance = 0.0
        for s in range(1, t + 1):
            variance = (1 - BETA[s].item()) * variance + BETA[s].item()
        now = variance / math.prod((1 - BETA[: t + 1]).tolist())
        wanted.append(math.sqrt(now - level))
        level = now
    wanted = torch.tensor(wanted, dtype=torch.float64)
    total = torch.sqrt((1 - ALPHA_BAR) / ALPHA_BAR)
    differ_from(got, total, "that is the noise which y_t holds in all, σ_t/a_t; g_t is what the step adds")
    differ_from(got, total.diff(prepend=total[:1]), "deviations were subtracted; of independent noises the variances add")
    differ_from(got, wanted**2, "that is g_t², the variance: take the root")
    differ_from(got, BETA.sqrt(), "that is the noise of x's own step; y_t = x_t/a_t magnifies it")
    early = BETA.sqrt() / torch.cat([ALPHA_BAR[:1], ALPHA_BAR[:-1]]).sqrt()
    differ_from(got, early, "divided by a_{t−1}: the whole of (06.1) is divided by a_t")
    differ_from(got, BETA.sqrt() / ALPHA_BAR, "divided by ᾱ_t: the signal rate is its root")
    signal_lost = torch.cat([ALPHA_BAR[:1] * 0, (ALPHA_BAR[:-1] - ALPHA_BAR[1:]).sqrt()])
    differ_from(got, signal_lost, "a difference of ᾱ is the signal that x loses; the noise in y_t has the variance 1/ᾱ_t − 1")
    agree(got, wanted, "exploding_twin")


def test_shifted(answer):
    alpha_bar = torch.cat([ALPHA_BAR, torch.zeros(1, dtype=torch.float64)])  # zero terminal SNR: λ is infinite at both ends
    for factor in (8.0, 1.5):
        got = answer.shifted(alpha_bar.clone(), factor)
        assert got is None or bool(got.isfinite().all()), "infinite or no number at an end: solve without dividing by 1 − ᾱ or ᾱ"
        got = doubles(got, (T + 2,), "shifted")
        wanted = torch.tensor([_share(each, factor**2) for each in alpha_bar.tolist()], dtype=torch.float64)

        def mistaken(power, factor=factor):
            return torch.tensor([_share(each, factor**power) for each in alpha_bar.tolist()], dtype=torch.float64)

        differ_from(got, mistaken(1), "the SNR was divided by the factor; a block has factor² pixels")
        differ_from(got, mistaken(-2), "the wrong way: a large picture needs more noise, not less")
        differ_from(got, mistaken(4), "shifted twice: λ, half the log-SNR, goes down by log(factor), not by twice that")
        differ_from(
            got, alpha_bar / factor**2, "the signal was weakened, but then a² + σ² = 1 asks for the noise rate to change too"
        )
        differ_from(got, alpha_bar, "nothing has changed")
        half = torch.sigmoid(0.5 * torch.logit(alpha_bar) - math.log(factor))
        differ_from(got, half, "that is sigmoid(λ); the way back from λ, below (06.7), is a² = sigmoid(2λ)")
        at_ends = "the ends stay as they are, ᾱ = 1 (no noise) and ᾱ = 0 (no signal), exactly: was a limit put under 1 − ᾱ or ᾱ?"
        assert got[0] == 1 and got[-1] == 0, at_ends
        agree(got, wanted, f"shifted by {factor:g}")
    agree(answer.shifted(alpha_bar.clone(), 1.0), alpha_bar, "shifted by 1, which changes nothing")


def _share(alpha_bar, divide_by):
    """The ᾱ whose SNR is this one's divided by a number: by bisection on the mean of so many equal pixels, without a formula."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        louder = middle * (1 - alpha_bar) * divide_by > alpha_bar * (1 - middle)
        low, high = (low, middle) if louder else (middle, high)
    return (low + high) / 2
