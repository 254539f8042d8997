"""Checks of chapter 12's exercises."""

import math

import torch
from checks import agree, asked, close, differ_from, number, shaped


def _randn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_push_velocity(answer):
    v, slope, w = _randn(5, 3, seed=1), _randn(5, 3, seed=2), 2.5
    alpha_bar = torch.tensor([0.95, 0.7, 0.5, 0.2, 0.05], dtype=torch.float64)
    got = shaped(asked(answer.push_velocity, v, slope, alpha_bar, w), (5, 3), "push_velocity").double()
    a, sigma = alpha_bar.sqrt()[:, None], (1 - alpha_bar).sqrt()[:, None]
    x_t = _randn(5, 3, seed=3)  # any: the answer does not depend on it
    x0, eps = a * x_t - sigma * v, sigma * x_t + a * v  # the detour
    wanted = a * (eps - w * sigma * slope) - sigma * (x0 + w * sigma**2 / a * slope)

    def push(factor):
        return v - w * factor * slope

    differ_from(got, v, "nothing was pushed")
    differ_from(got, push(-sigma / a), "the sign: v falls where the picture comes nearer to the class, as ε does")
    differ_from(got, push(sigma), "that is ε's push, (12.3); v also contains x_0")
    differ_from(got, push(-(sigma**2) / a), "that is x_0's push, (12.4); of v = a ε − σ x_0 both parts move")
    differ_from(got, push(sigma**2 / a), "that is x_0's push, (12.4); of v = a ε − σ x_0 both parts move")
    differ_from(got, push(a * sigma), "x_0 was left as it was: of v = a ε − σ x_0 both parts move")
    differ_from(got, push(sigma**3 / a), "ε was left as it was: of v = a ε − σ x_0 both parts move")
    differ_from(got, push(a * sigma - sigma**3 / a), "the two parts add: x_0 has a minus in v, and the push another")
    differ_from(got, push(sigma**2 / a**2), "σ²/a² where σ/a is right: ᾱ is the square of a")
    differ_from(got, push(a / sigma), "upside down: the push is large where there is much noise")
    differ_from(got, v - sigma / a * slope, "w was left out")
    differ_from(got, v - (w - 1) * sigma / a * slope, "here w = 0 is unconditional, so the push is counted w times, not w − 1")
    agree(got, wanted, "push_velocity")


def test_two_conditions(answer):
    null, image, both = (_randn(2, 3, 4, 4, seed=seed) for seed in (4, 5, 6))
    w_image, w_text = 1.5, 7.0
    got = shaped(asked(answer.two_conditions, null, image, both, w_image, w_text), (2, 3, 4, 4), "two_conditions").double()
    text_from_null = (
        "the text's difference is taken from ∅; p(T | x_t, I) knows the picture, so take it from the prediction told I"
    )
    differ_from(got, null + w_image * (image - null) + w_text * (both - null), text_from_null)
    differ_from(got, null + w_text * (image - null) + w_image * (both - image), "the two knobs are exchanged")
    differ_from(got, image + w_image * (image - null) + w_text * (both - image), "begin at ∅: here w = 1 is plain conditional")
    differ_from(got, both + w_image * (image - null) + w_text * (both - image), "begin at ∅: here w = 1 is plain conditional")
    differ_from(got, null + w_text * (both - null), "the picture's knob is not used")
    differ_from(got, null + w_image * (image - null) + w_image * w_text * (both - image), "the knobs are multiplied; they add")
    differ_from(got, null + w_image * (null - image) + w_text * (image - both), "the signs: towards the conditions, not away")
    differ_from(got, image + w_text * (both - image), "the picture's knob is not used")
    first = null + w_image * (image - null)
    differ_from(got, first + w_text * (both - first), "one guidance after the other: the text's difference is both − image")
    wanted = (1 - w_image) * null + (w_image - w_text) * image + w_text * both
    agree(got, wanted, "two_conditions")
    agree(answer.two_conditions(null, image, both, 1.0, 1.0), both, "two_conditions with both knobs at 1")
    agree(answer.two_conditions(null, image, both, 0.0, 0.0), null, "two_conditions with both knobs at 0")


def _pair(calls):
    def cond(x, t):
        calls.append("cond")
        return torch.tanh(x) + 0.01 * t.view(-1, *[1] * (x.ndim - 1))

    def null(x, t):
        calls.append("null")
        return 0.3 * x - 0.02 * t.view(-1, *[1] * (x.ndim - 1))

    return cond, null


def test_in_interval(answer):
    calls, w = [], 3.0
    cond, null = _pair(calls)
    denoise = answer.in_interval(cond, null, w, 70, 20)
    assert denoise is not None, "in_interval: nothing was returned; is there a `return`?"
    assert callable(denoise), "in_interval: a function (x_t, t) → x̂_0 is wanted"
    x, t = _randn(6, 2, 3, 3, seed=7), torch.tensor([100, 71, 70, 45, 20, 19])
    got = shaped(asked(denoise, x, t), (6, 2, 3, 3), "what in_interval returns, when called").double()
    c, n = cond(x, t), null(x, t)
    guided = n + w * (c - n)

    def mix(inside, out):
        return torch.where(inside[:, None, None, None], guided, out)

    middle = (t >= 20) & (t <= 70)
    inside, outside = (torch.full((6,), time) for time in (45, 90))
    right_alone = close(denoise(x, inside), null(x, inside) + w * (cond(x, inside) - null(x, inside)))
    if right_alone and close(denoise(x, outside), cond(x, outside)):  # so only a batch of mixed times is a difficulty
        for whole in (guided, c):
            differ_from(got, whole, "the times of a batch may differ: decide for each example by its own")
    differ_from(got, guided, "guided at all times")
    differ_from(got, c, "guided at no time")
    differ_from(got, mix(middle, n), "outside the interval it is unconditional; the conditional denoiser is wanted, w = 1")
    differ_from(got, mix(~middle, c), "guided outside the interval, and not inside")
    for inside in ((t > 20) & (t < 70), (t >= 20) & (t < 70), (t > 20) & (t <= 70)):
        differ_from(got, mix(inside, c), "both ends of the interval are guided, too: last ≤ t ≤ first")
    differ_from(got, mix(t <= 70, c), "below `last` it is still guided")
    differ_from(got, mix(t >= 20, c), "above `first` it is already guided")
    off = torch.where(middle[:, None, None, None], c + w * (c - n), c)
    differ_from(got, off, "begin at ∅: c + w (c − ∅) is guidance with w + 1")
    agree(got, mix(middle, c), "in_interval")
    labels = torch.arange(6.0, dtype=torch.float64).view(6, 1, 1, 1)
    # a denoiser that knows each example's class by its place in the batch
    placed = answer.in_interval(lambda x, t: x + labels[: len(x)], lambda x, t: 0 * x, 1.0, 70, 20)
    differ_from(
        torch.as_tensor(placed(x, t)).double(),
        x + torch.tensor([0.0, 1, 0, 1, 2, 2], dtype=torch.float64).view(6, 1, 1, 1),
        "ask denoise_cond about the whole batch: it may hold each example's class, by its place",
    )
    agree(placed(x, t), x + labels, "in_interval, with a class for each example")
    calls.clear()
    early = denoise(x, torch.full((6,), 90))
    assert "null" not in calls, "outside the interval nobody needs denoise_null: do not ask it, half of the work is saved"
    agree(early, cond(x, torch.full((6,), 90)), "in_interval, where nothing is guided")
    flat = shaped(denoise(x[:, 0, 0], t), (6, 3), "what in_interval returns, for x of shape N×D")
    agree(flat, torch.where(middle[:, None], *_flat(x[:, 0, 0], t, w)), "in_interval for x of shape N×D")


def _flat(x, t, w):
    cond, null = _pair([])
    c, n = cond(x, t), null(x, t)
    return n + w * (c - n), c


def test_rescaled(answer):
    guided, cond, phi = 3 * _randn(4, 2, 5, 5, seed=8) + 1, _randn(4, 2, 5, 5, seed=9), 0.7
    guided = guided * torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64).view(-1, 1, 1, 1)
    guided[:, 1] *= 0.3
    got = shaped(asked(answer.rescaled, guided, cond, phi), (4, 2, 5, 5), "rescaled").double()
    ratios = [(c.var() / g.var()).sqrt().item() for c, g in zip(cond, guided, strict=True)]
    ratio = torch.tensor(ratios, dtype=torch.float64).view(-1, 1, 1, 1)

    def by(ratio, share=phi):
        return guided * (share * ratio + 1 - share)

    differ_from(got, guided, "nothing was rescaled")
    differ_from(got, by(ratio, 1.0), "φ was left out: go only a part of the way")
    differ_from(got, by(ratio, 1 - phi), "φ and 1 − φ are exchanged: φ = 0 changes nothing")
    differ_from(got, by(1 / ratio), "upside down: the guided prediction is to get the deviation of the conditional one")
    differ_from(got, by(ratio**2), "a ratio of variances: deviations are wanted, so take the root")
    differ_from(got, by(cond.std() / guided.std()), "one deviation for the whole batch: each example has its own")
    channels = cond.std((2, 3), keepdim=True) / guided.std((2, 3), keepdim=True)
    differ_from(got, by(channels), "one deviation for each channel: one for each example is wanted")
    pixels = cond.std(1, keepdim=True) / guided.std(1, keepdim=True)
    differ_from(got, by(pixels), "the deviation over channels: all entries of an example are wanted")
    norms = cond.flatten(1).norm(dim=1) / guided.flatten(1).norm(dim=1)
    differ_from(got, by(norms.view(-1, 1, 1, 1)), "a ratio of lengths; a deviation is measured from the mean")
    differ_from(got, phi * ratio * guided + (1 - phi) * cond, "the other part is the guided prediction, not the conditional one")
    differ_from(got, phi * ratio * cond + (1 - phi) * guided, "the guided prediction is to be rescaled, not the conditional one")
    mean = guided.mean((1, 2, 3), keepdim=True)
    centred = phi * (mean + ratio * (guided - mean)) + (1 - phi) * guided
    differ_from(got, centred, "multiply by one number; the mean is multiplied, too")
    agree(got, by(ratio), "rescaled")


def _walked(var_cond, var_null, w, low, high, steps=20000):
    """The factor of the flow from r = 3000 down to 0, by the midpoint rule in log(1 + r), squared times the start's variance."""
    ends = torch.linspace(0, math.log(3001.0), steps + 1, dtype=torch.float64)
    marks = [math.log1p(r) for r in (low, high) if 0 < r < 3000]
    ends = torch.cat([ends, torch.tensor(marks, dtype=torch.float64)]).sort().values
    middle, widths = (ends[1:] + ends[:-1]) / 2, ends[1:] - ends[:-1]
    r = torch.expm1(middle)
    share = torch.where((r >= low) & (r <= high), w, 1.0)
    slope = r * (share / (var_cond + r**2) + (1 - share) / (var_null + r**2))
    return ((var_cond + 3000.0**2) * torch.exp(-2 * (slope * (1 + r) * widths).sum())).item()


def test_interval_end(answer):
    for var_cond, var_null, w, low, high in ((0.9, 2.0, 4.0, 0.3, 2.0), (0.2, 1.5, 7.5, 0.5, 1.2), (0.5, 0.8, 2.5, 0.1, 5.0)):
        got = number(answer.interval_end(var_cond, var_null, w, low, high), "interval_end")

        def at(r, s=var_cond, n=var_null):
            return (s + r) / (n + r)

        inside = at(low**2) / at(high**2)
        whole = var_cond**w * var_null ** (1 - w)
        differ_from(got, whole, "that is (12.11), guided all the way; outside the interval w is 1")
        differ_from(got, var_cond, "that is the conditional end, guided nowhere")
        differ_from(got, var_cond * inside**w, "w − 1 and not w: one of the w is the conditional flow, which goes all the way")
        differ_from(got, var_null * inside**w, "outside the interval it is unconditional; conditional is wanted, w = 1")
        differ_from(got, var_cond * (at(low) / at(high)) ** (w - 1), "r is a deviation: variances add, s² + r²")
        differ_from(got, var_cond * inside ** (1 - w), "upside down: guidance makes the end narrower")
        differ_from(got, (var_cond * inside ** (w - 1)) ** 0.5, "that is the deviation; the variance is wanted")
        differ_from(got, var_cond * inside ** ((w - 1) / 2), "a factor 2: a variance grows with the square of y")
        differ_from(got, var_cond * at(low**2) ** (w - 1), "guided from infinity down to `low`: `high` is not used")
        differ_from(got, whole * at(high**2) ** (1 - w), "guided from `high` down to 0: `low` is not used")
        agree(got, _walked(var_cond, var_null, w, low, high), "interval_end", 1e-5)


def test_interval_end__at_its_limits(answer):
    try:
        whole = answer.interval_end(1.0, 2.0, 4.0, 0.0, math.inf)
    except (ZeroDivisionError, OverflowError):
        whole = math.nan
    assert whole is None or math.isfinite(whole), "`high` may be infinite: what is (s² + r²)/(S² + r²) there?"
    agree(number(whole, "interval_end over all levels"), 2.0**-3, "interval_end over all levels, which is (12.11)")
    agree(number(answer.interval_end(0.7, 2.0, 5.0, 0.4, 0.4), "interval_end"), 0.7, "interval_end of an empty interval")
