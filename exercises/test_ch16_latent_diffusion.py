"""Checks of chapter 16's exercises."""

import torch
import torch.nn.functional as F
from checks import agree, asked, differ_from, doubles, several, shaped

BETA = torch.tensor([0.0, 0.02, 0.05, 0.1, 0.08, 0.2, 0.3, 0.25, 0.4], dtype=torch.float64)  # eight coarse steps
ALPHA_BAR = torch.cumprod(1 - BETA, 0)


def _randn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_matched_alpha_bar(answer):
    for s in (0.2, 5.0):
        alpha_bar = torch.cat([ALPHA_BAR, torch.zeros(1, dtype=torch.float64)])  # zero terminal SNR
        got = asked(answer.matched_alpha_bar, alpha_bar, s)
        undefined = isinstance(got, torch.Tensor) and got.isnan().any()
        assert not undefined, "at ᾱ = 1 the SNR is infinite, and ∞/∞ is not a number: solve for ᾱ first, then put numbers in"
        got = doubles(got, (10,), "matched_alpha_bar")
        snr = alpha_bar[1:-1] / (1 - alpha_bar[1:-1])

        def whole(inner, alpha_bar=alpha_bar):
            return torch.cat([torch.ones(1), inner, torch.zeros(1)]).double()

        wanted = whole(torch.sigmoid(torch.log(snr) - 2 * torch.log(torch.tensor(s).double())))  # log SNR less log s²
        differ_from(got, alpha_bar, "that is the schedule that was meant, unchanged")
        differ_from(got, whole(torch.sigmoid(torch.log(snr / s))), "the SNR is a ratio of variances: s² belongs there, not s")
        differ_from(got, whole(snr * s**2 / (1 + snr * s**2)), "the wrong way round: wide latents need less of a, not more")
        differ_from(got, whole(snr * s / (1 + snr * s)), "the wrong way round, and s for s²")
        differ_from(got, alpha_bar / s**2, "a was divided by s, but σ has to follow: σ² = 1 − ᾱ")
        differ_from(
            got, (alpha_bar * s**2).clamp(max=1), "a was multiplied by s; σ has to follow, and wide latents need less of a"
        )
        differ_from(got, wanted.sqrt(), "that is the signal rate √ᾱ; ᾱ is wanted")
        twice = whole(torch.sigmoid(torch.log(snr) - 4 * torch.log(torch.tensor(s).double())))
        differ_from(got, twice, "s⁴: λ is half of log SNR, so it is shifted by log s, and log SNR by twice that")
        differ_from(got, 1 - wanted, "that is 1 − ᾱ, the noise; ᾱ falls from 1")
        differ_from(got, torch.cat([torch.zeros(1), snr / s**2, torch.zeros(1)]).double(), "that is an SNR; ᾱ is wanted")
        agree(got, wanted, "matched_alpha_bar")


def test_best_gaussian_prior(answer):
    mean, log_var = _randn(7, 3, seed=1) + torch.tensor([0.0, 1.0, -2.0]), 0.7 * _randn(7, 3, seed=2)
    centre, spread = several(asked(answer.best_gaussian_prior, mean, log_var), 2, "best_gaussian_prior")
    centre, spread = doubles(centre, (3,), "the prior's mean"), doubles(spread, (3,), "the prior's log-variance")
    variance = torch.exp(log_var)
    second = (mean**2 + variance).mean(0)  # E z² under the mixture
    wanted = torch.log(second - mean.mean(0) ** 2)
    precise = (mean / variance).sum(0) / (1 / variance).sum(0)
    differ_from(centre, precise, "weighed by precision: that is a product of densities, and the aggregate is their mean")
    differ_from(centre, torch.zeros(3), "N(0, 1) is the prior that is to be bettered: its mean may move")
    differ_from(spread, log_var.mean(0), "logarithms were averaged; variances have to be, and the means' spread added")
    differ_from(spread, torch.log(variance.mean(0)), "the spread of the means is missing: the pictures' latents lie apart")
    differ_from(spread, torch.log(mean.var(0, correction=0)), "the variances of the latents themselves are missing")
    differ_from(
        spread, torch.log(mean.var(0) + variance.mean(0)), "N − 1 estimates; the aggregate is these N Gaussians, so divide by N"
    )
    differ_from(spread, second.log(), "that is E z²: subtract the square of the mean")
    differ_from(spread, wanted / 2, "that is the log of the deviation; the log-variance is wanted")
    differ_from(spread, torch.exp(wanted), "that is the variance; its logarithm is wanted")
    differ_from(spread, torch.log(1 / (1 / variance).mean(0)), "precisions were averaged: that is for a product of densities")
    agree(centre, mean.mean(0), "the prior's mean")
    agree(spread, wanted, "the prior's log-variance")


def test_without_token(answer):
    score, value = _randn(2, 3, 4, 5, seed=3), _randn(2, 3, 5, 6, seed=4)
    weight = score.softmax(-1)
    for token in (0, 3):
        got = asked(lambda weight, value, token=token: answer.without_token(weight, value, token), weight, value)
        got = shaped(got, (2, 3, 4, 6), "without_token").double()
        others = [place for place in range(5) if place != token]
        wanted = score[..., others].softmax(-1) @ value[..., others, :]
        kept = weight[..., others] @ value[..., others, :]
        differ_from(got, weight @ value, "the token is still looked at: nothing was taken away")
        differ_from(got, kept, "the others' weights sum to less than 1 now: they have to be divided by their sum")
        differ_from(got, weight[..., others].softmax(-1) @ value[..., others, :], "a softmax of weights: they are no scores")
        zeroed = weight.clone()
        zeroed[..., token] = 0
        differ_from(got, zeroed.softmax(-1) @ value, "a score of zero is not out of sight: exp(0) = 1")
        shared = weight[..., others] + weight[..., token, None] / 4
        differ_from(got, shared @ value[..., others, :], "the free share was divided evenly; a softmax divides it in proportion")
        unmoved = weight @ value / (1 - weight[..., token, None])
        differ_from(got, unmoved, "the sum still holds the token: take it away first, and then divide")
        differ_from(got, kept * 5 / 4, "scaled as if every token had the same share; each position divides by what it has left")
        differ_from(got, kept / weight[..., token, None], "divided by the token's own share; the others have 1 minus that")
        differ_from(got, kept / (1 - weight[..., token, None]).mean(2, keepdim=True), "each position has a share of its own")
        differ_from(got, kept * (1 - weight[..., token, None]), "multiplied by what is left; to sum to 1, divide by it")
        alone = weight[..., token, None] * value[..., token, None, :]
        differ_from(got, alone, "that is what this token adds; the rest is wanted")
        agree(got, wanted, "without_token")


def test_folded_condition(answer):
    weight, bias, image, x = _randn(4, 5, 3, 3, seed=5), _randn(4, seed=6), _randn(2, 3, 6, 6, seed=7), _randn(2, 2, 6, 6, seed=8)
    first, added = several(asked(answer.folded_condition, weight, bias, image), 2, "folded_condition")
    first = shaped(first, (4, 2, 3, 3), "the weights that are left").double()
    differ_from(first, weight[:, 3:], "x_t's channels come first, the image's last")
    agree(first, weight[:, :2], "the weights that are left")
    added = shaped(added, (2, 4, 6, 6), "the map").double()
    own = F.conv2d(image, weight[:, 2:], padding=1)
    differ_from(added, own, "the bias is missing: nobody else adds it")
    differ_from(added, own + 2 * bias[:, None, None], "the bias was added twice")
    differ_from(added, F.conv2d(image, weight[:, :3], bias, padding=1), "the image's weights are the last, not the first")
    differ_from(added, F.conv2d(image, weight[:, 2:].flip(2, 3), bias, padding=1), "a convolution here does not flip its kernel")
    padded = F.conv2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), weight[:, 2:], bias)
    differ_from(added, padded, "at the borders: the margin is zeros, not the image continued")
    flat = (own + bias[:, None, None]).mean((2, 3), keepdim=True).expand_as(own)
    differ_from(added, flat, "averaged over places: the bias differs from place to place")
    one = (own + bias[:, None, None]).mean(0, keepdim=True).expand_as(own)
    differ_from(added, one, "averaged over the batch: each example has an image of its own")
    centre = torch.einsum("oihw,nixy->noxy", weight[:, 2:], image) + bias[:, None, None]
    differ_from(added, centre, "the kernel was summed: each place sees its neighbours' values, not its own nine times")
    agree(added, own + bias[:, None, None], "the map")
    agree(F.conv2d(x, first, padding=1) + added, F.conv2d(torch.cat([x, image], 1), weight, bias, padding=1), "the first layer")


def test_mismatch_of_chain(answer):
    for s in (0.5, 3.0):
        got = doubles(asked(answer.mismatch_of_chain, ALPHA_BAR, s), (7,), "mismatch_of_chain")
        a2, n2 = ALPHA_BAR[2:], 1 - ALPHA_BAR[2:]
        snr = ALPHA_BAR[1:] / (1 - ALPHA_BAR[1:])
        times, total = 0.5 * (snr[:-1] - snr[1:]), a2 * s**2 + n2
        theirs = (1 - a2) ** 2 * s**2 + a2 * n2  # E|z − a z_t|², z and ε apart
        extra = theirs - s**2 * n2 / total
        differ_from(got, times * theirs, "that is the whole error; the smallest possible one has to be paid in any case")
        differ_from(got, extra, "the squared errors themselves: the bound counts each ½ (SNR(t−1) − SNR(t)) times")
        differ_from(got, 2 * times * extra, "the ½ is missing")
        differ_from(got, 0.5 * snr[1:] * extra, "that weighs with SNR(t); the step from t to t − 1 weighs with a difference")
        late = 0.5 * (snr[:-1] - snr[1:]) * torch.cat([extra[:0], _extra(s, ALPHA_BAR[1:-1])])
        differ_from(got, late, "the error is that at t, where the denoiser is asked; this one is at t − 1")
        differ_from(got, -times * extra, "the sign: SNR falls with t, and a wrong answer costs something")
        alone = times * (a2.sqrt() - a2.sqrt() * s**2 / total) ** 2
        differ_from(got, alone, "the factors' difference multiplies z_t, and E z_t² is a² s² + σ² here, not 1")
        squares = times * (a2 - a2 * s**4 / total**2).abs() * total
        differ_from(got, squares, "a difference of squares is no square of a difference")
        of_noise = times * extra * a2 / n2
        differ_from(got, of_noise, "that is the error of ε̂, a²/σ² times as large: the difference of SNRs weighs that of ẑ_0")
        least_noise = a2 * s**2 / total
        differ_from(got, times * (theirs - least_noise), "(16.5) is the least error of ε̂; that of ẑ_0 is wanted")
        differ_from(got, times * (theirs - n2 / total), "the least error of ẑ_0 is s² σ²/(a² s² + σ²): an s² is missing")
        agree(got, times * extra, "mismatch_of_chain")


def _extra(s, alpha_bar):
    """E|z − a z_t|² less the smallest error, at these ᾱ."""
    n2 = 1 - alpha_bar
    return n2**2 * s**2 + alpha_bar * n2 - s**2 * n2 / (alpha_bar * s**2 + n2)


def test_mismatch_of_chain__sums_to_the_divergence(answer):
    log_snr = torch.linspace(12, -12, 20_000, dtype=torch.float64)
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), torch.sigmoid(log_snr)])
    for s in (0.5, 2.0):
        got = doubles(answer.mismatch_of_chain(alpha_bar.clone(), s), (19_999,), "mismatch_of_chain").sum()
        kl = 0.5 * (s**2 - 1) - torch.log(torch.tensor(s, dtype=torch.float64))
        assert abs(got / kl - 1) < 0.01, f"with many steps the sum is KL(N(0, {s}²) ‖ N(0, 1)) = {kl:.4f}, not {got:.4f}"
