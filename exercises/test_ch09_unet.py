"""Checks of chapter 09's exercises."""

import itertools
import math
import weakref
from numbers import Integral

import torch
import torch.nn.functional as F
from checks import agree, asked, differ_from, number, several, shaped
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

STACKS = [
    (33, [(3, 1, 1, 1)]),
    (64, [(3, 1, 1, 1), (3, 2, 1, 1), (3, 1, 1, 1), (3, 2, 1, 1), (3, 1, 1, 1)]),
    (50, [(5, 1, 0, 1), (2, 2, 0, 1), (3, 3, 1, 1)]),
    (40, [(3, 1, 1, 1), (3, 1, 2, 2), (3, 1, 4, 4), (3, 2, 0, 2)]),
    (8, [(1, 1, 0, 1), (2, 1, 0, 1)]),
]


def _random(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _stack_of(length, layers, padded=True):
    """A row of numbers through convolutions with all weights 1: what comes out, and the gradient of its middle number."""
    x = torch.zeros(1, 1, length, dtype=torch.float64, requires_grad=True)
    y = x
    for kernel, stride, padding, dilation in layers:
        y = F.conv1d(y, torch.ones(1, 1, kernel).double(), None, stride, padding if padded else 0, dilation)
    y[0, 0, y.shape[2] // 2].backward()
    return y, x.grad


def test_size_and_reach(answer):
    for size, layers in STACKS:
        pair = several(answer.size_and_reach(size, list(layers)), 2, "size_and_reach")
        got_size, got_reach = number(pair[0], "the size"), number(pair[1], "the reach")
        whole = all(isinstance(each, Integral) for each in pair)
        assert whole, "two integers are wanted, not floats: // divides, rounds down and stays whole"
        wanted = _stack_of(size, layers)[0].shape[2]
        seen = _stack_of(600, layers, padded=False)[1].nonzero()[:, 2]
        wanted_reach = (seen.max() - seen.min() + 1).item()
        spans = [(kernel - 1) * dilation for kernel, _, _, dilation in layers]
        strides = [layer[1] for layer in layers]
        mistakes = {
            "the reach as if no kernel had gaps: how many pixels does it span?": 1
            + sum((layer[0] - 1) * math.prod(strides[:n]) for n, layer in enumerate(layers)),
            "a kernel spans D (K − 1) + 1 pixels, not D K: no gap follows its last weight": 1
            + sum((layer[0] * layer[3] - 1) * math.prod(strides[:n]) for n, layer in enumerate(layers)),
            "strides make no difference to this reach: a step in a later layer spans several pixels": 1 + sum(spans),
            "a layer's own stride was counted in its reach: only those before it stretch it": 1
            + sum(span * math.prod(strides[: n + 1]) for n, span in enumerate(spans)),
        }
        for mistake, wrong in mistakes.items():
            if wrong != wanted_reach:
                differ_from(got_reach, wrong, mistake)
        gapless = _stack_of(size, [(kernel, stride, padding, 1) for kernel, stride, padding, _ in layers])[0].shape[2]
        if gapless != wanted:
            differ_from(got_size, gapless, "the size as if no kernel had gaps: how many pixels does it span?")
        differ_from(got_size, wanted - 1, "the size is one too small: the first place counts too")
        differ_from(got_reach, wanted_reach - 1, "the reach is one too small: a pixel sees itself")
        agree(got_size, wanted, f"the size after {layers} on {size} pixels")
        agree(got_reach, wanted_reach, f"the reach of {layers}")


def test_adaptive_norm(answer):
    h, time, groups, eps = 3 * _random(2, 6, 3, 4) + 1, _random(2, 5, seed=2), 3, 1e-3
    weight, bias = _random(12, 5, seed=3), _random(12, seed=4)
    got = shaped(asked(answer.adaptive_norm, h, time, weight, bias, groups, eps), (2, 6, 3, 4), "adaptive_norm")

    def built(normed, told, order=(0, 1), one=1.0, bias=bias):
        numbers = F.linear(told, weight, bias).view(2, 2, 6, 1, 1)
        return (one + numbers[:, order[0]]) * normed + numbers[:, order[1]]

    normed, told = F.group_norm(h, groups, eps=eps), F.silu(time)
    differ_from(
        got, built(normed, told, one=0.0), "scaled by s, not by 1 + s: with all weights 0 nothing would be left of the map"
    )
    differ_from(got, built(normed, told, order=(1, 0)), "scale and shift exchanged: s comes first")
    differ_from(got, built(normed, time), "time without its SiLU")
    differ_from(got, built(normed, told, bias=torch.zeros_like(bias)), "the linear function without its bias")
    scale, shift = F.linear(told, weight, bias)[:, :, None, None].chunk(2, 1)
    differ_from(got, (1 + scale) * (normed + shift), "shifted first, then scaled: the shift is not to be scaled")
    scale, shift = F.linear(told, weight, bias).view(2, 6, 2, 1, 1).unbind(2)
    differ_from(got, (1 + scale) * normed + shift, "s and b taken by turns: the first C numbers are s, the others b")
    differ_from(got, built(F.instance_norm(h, eps=eps), told), "each channel was normalised by itself: a group holds several")
    differ_from(got, built(F.group_norm(h, 1, eps=eps), told), "all channels were normalised together: there are groups")
    batch = F.batch_norm(h, None, None, training=True, eps=eps)
    differ_from(got, built(batch, told), "normalised over the batch: each example is normalised by itself")
    differ_from(got, built(h, told), "the map was not normalised")
    within = h.view(2, 3, 24)
    unbiased = (within - within.mean(2, keepdim=True)) / (within.var(2, keepdim=True) + eps).sqrt()
    differ_from(got, built(unbiased.view_as(h), told), "the variance was divided by n − 1: here it is by n")
    late = (within - within.mean(2, keepdim=True)) / (within.var(2, keepdim=True, correction=0).sqrt() + eps)
    differ_from(got, built(late.view_as(h), told), "eps is added to the variance, under the root")
    wanted = torch.zeros_like(h)
    for n, c in itertools.product(range(2), range(6)):
        own = h[n, 2 * (c // 2) : 2 * (c // 2) + 2]
        scale, shift = (
            sum(weight[row, e] * time[n, e] / (1 + math.exp(-time[n, e])) for e in range(5)) + bias[row] for row in (c, 6 + c)
        )
        wanted[n, c] = (1 + scale) * (h[n, c] - own.mean()) / math.sqrt(((own - own.mean()) ** 2).mean() + eps) + shift
    agree(got, wanted, "adaptive_norm")


def _clock(t, m):
    """e(t), float64, from complex numbers on the unit circle."""
    hands = torch.exp(1j * t[:, None] * 10000.0 ** (-torch.arange(m, dtype=torch.float64) / m))
    return torch.cat([hands.real, hands.imag], 1)


def test_turned(answer):
    t = torch.tensor([0.0, 3.0, 410.5, 999.0, 123456.0]).double()  # the last is beyond the longest wavelength
    delta, m = torch.tensor([1.0, -2.5, 20.0, 0.25, 7.0]).double(), 6
    features = _clock(t, m)
    got = shaped(asked(answer.turned, features, delta), (5, 2 * m), "turned")
    differ_from(got, features, "nothing has turned")
    differ_from(got, _clock(t - delta, m), "turned back: that is e(t − δ)")
    differ_from(got, _clock(t + delta, m).roll(m, 1), "cosines and sines exchanged: cosines come first")
    differ_from(got, _clock(delta, m), "that is e(δ): where do the hands stand now?")
    differ_from(got, features + _clock(delta, m), "angles add, not their cosines")
    pairs = features.view(5, m, 2)
    speeds = 10000.0 ** (-torch.arange(m, dtype=torch.float64) / m)
    read = torch.atan2(features[:, -1], features[:, m - 1]) / speeds[-1]
    slowest = "t was read off the slowest hand, which comes round again: turn each hand from where it stands, without t"
    differ_from(got, _clock(read + delta, m), slowest)
    differ_from(got, _clock(read % (2 * math.pi / speeds[-1]) + delta, m), slowest)
    cos, sin, turn = features[:, :m], features[:, m:], delta[:, None] * speeds
    right = [cos * turn.cos() - sin * turn.sin(), sin * turn.cos() + cos * turn.sin()]
    wrong = [cos * turn.cos() + sin * turn.sin(), sin * turn.cos() - cos * turn.sin()]
    differ_from(got, torch.cat([wrong[0], right[1]], 1), "a sign: cos(α + β) = cos α cos β − sin α sin β")
    differ_from(got, torch.cat([right[0], wrong[1]], 1), "a sign: sin(α + β) = sin α cos β + cos α sin β")
    spun = torch.view_as_complex(pairs.contiguous()) * torch.exp(1j * delta[:, None] * speeds)
    differ_from(
        got,
        torch.view_as_real(spun).reshape(5, 2 * m),
        "columns 2k and 2k + 1 were paired: here cosine k and sine k stand m apart",
    )
    slow = torch.exp(1j * delta[:, None] * 10000.0 ** (-torch.arange(m, dtype=torch.float64) / (2 * m)))
    spun = torch.complex(features[:, :m], features[:, m:]) * slow
    differ_from(got, torch.cat([spun.real, spun.imag], 1), "the frequencies fall too slowly: m of them, so k is divided by m")
    agree(got, _clock(t + delta, m), "turned", 1e-9)


def _pieces_of(key, value, sizes):
    """An iterator that gives each piece once."""
    return iter(list(zip(key.split(sizes), value.split(sizes), strict=True)))


def test_attend_to_stream(answer):
    query, key, value, sizes = _random(3, 4), _random(11, 4, seed=2), _random(11, 2, seed=3), [4, 1, 6]
    got = shaped(answer.attend_to_stream(query, _pieces_of(key, value, sizes)), (3, 2), "attend_to_stream")

    def exact(k, v, root=2.0):
        return (query @ k.T / root).softmax(1) @ v

    each = [exact(k, v) for k, v in _pieces_of(key, value, sizes)]
    differ_from(got, exact(key, value, 1.0), "the logits were not divided by √d")
    differ_from(got, exact(key, value, 4.0), "the logits were divided by d: its root is meant")
    differ_from(got, sum(each) / 3, "a mean of each piece's attention: pieces that are looked at more count more")
    differ_from(got, sum(each), "a sum of each piece's attention: all weights together sum to 1")
    differ_from(got, each[-1], "only the last piece was looked at")
    differ_from(got, each[0], "only the first piece was looked at")
    above, below, largest = 0.0, 0.0, torch.full((3, 1), -torch.inf).double()
    for k, v in _pieces_of(key, value, sizes):
        logits = query @ k.T / 2
        largest = torch.maximum(largest, logits.amax(1, keepdim=True))
        above, below = above + torch.exp(logits - largest) @ v, below + torch.exp(logits - largest).sum(1, keepdim=True)
    stale = "when a larger logit comes, what was summed up before has to be scaled down: it was measured from another one"
    differ_from(got, above / below, stale)
    agree(got, exact(key, value), "attend_to_stream", 1e-9)


def test_attend_to_stream__large_logits(answer):
    for scale in (2000.0, -2000.0):
        query, key, value = scale * _random(3, 4), _random(11, 4, seed=2), _random(11, 2, seed=3)
        got = answer.attend_to_stream(query, _pieces_of(key, value, [4, 1, 6]))
        assert got is None or bool(got.isfinite().all()), (
            "not finite for large logits: subtract the largest of each query before exp"
        )
        wanted = (query @ key.T / 2).softmax(1) @ value
        agree(shaped(got, (3, 2), "attend_to_stream"), wanted, "attend_to_stream with logits in the thousands", 1e-9)


def test_attend_to_stream__logits_far_below_zero(answer):
    query, key, value = 100 * _random(3, 4).abs() + 100, -_random(11, 4, seed=2).abs() - 10, _random(11, 2, seed=3)
    got = answer.attend_to_stream(query, _pieces_of(key, value, [4, 1, 6]))
    below = "not finite where all logits are far below 0: the largest so far begins at −∞, not at 0"
    assert got is None or bool(got.isfinite().all()), below
    wanted = (query @ key.T / 2).softmax(1) @ value
    agree(shaped(got, (3, 2), "attend_to_stream"), wanted, "attend_to_stream with all logits far below 0", 1e-9)


class _Largest(TorchDispatchMode):
    """How many numbers the largest tensor had that was computed meanwhile."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.count = max([self.count, *(each.numel() for each in tree_leaves(result) if isinstance(each, Tensor))])
        return result


def test_attend_to_stream__one_piece_at_a_time(answer):
    query, given, held = _random(3, 4), [], "earlier pieces are still held when the next is asked for: keep running sums only"

    def pieces():
        for seed in range(40):
            assert not any(reference() is not None for reference in given[:-2]), held
            pair = _random(2, 4, seed=seed), _random(2, 2, seed=100 + seed)
            given.extend(weakref.ref(each) for each in pair)
            yield pair
            del pair

    with _Largest() as largest:
        got = answer.attend_to_stream(query, pieces())
    shaped(got, (3, 2), "attend_to_stream")
    collected = "pieces are collected: a tensor was computed that grows with the number of keys; keep running sums only"
    assert largest.count < 80, collected  # all keys have 320 numbers, all values 160, all logits 240


def test_four_kernels(answer):
    weight, x = _random(3, 2, 3, 3), _random(1, 2, 4, 5, seed=2)
    got = shaped(asked(answer.four_kernels, weight), (2, 2, 3, 2, 2, 2), "four_kernels").double()

    def folded(first, second, weight=weight):
        """Rows folded by one rule for a = 0 and another for a = 1, columns alike."""
        rows = [first(weight, -2), second(weight, -2)]
        return torch.stack([torch.stack([first(each, -1), second(each, -1)]) for each in rows])

    def low(w, along):  # pixels i − 1, i, i
        return torch.cat([w.narrow(along, 0, 1), w.narrow(along, 1, 2).sum(along, keepdim=True)], along)

    def high(w, along):  # pixels i, i, i + 1
        return torch.cat([w.narrow(along, 0, 2).sum(along, keepdim=True), w.narrow(along, 2, 1)], along)

    def low_mean(w, along):
        return torch.cat([w.narrow(along, 0, 1), w.narrow(along, 1, 2).mean(along, keepdim=True)], along)

    def high_mean(w, along):
        return torch.cat([w.narrow(along, 0, 2).mean(along, keepdim=True), w.narrow(along, 2, 1)], along)

    differ_from(got, folded(high, low), "the corners are exchanged: output 2i looks at i − 1 once and at i twice")
    differ_from(got, folded(low_mean, high_mean), "weights that meet the same pixel add up; their mean was taken")
    differ_from(got, folded(low, low), "all four kernels are alike: a = 1 looks the other way")
    differ_from(got, folded(low, high).mT, "rows and columns of the kernels are exchanged")
    differ_from(got, folded(low, high).transpose(0, 1), "a and b are exchanged: a belongs to the rows, b to the columns")
    turned = "kernels turned round: p = 0 is the upper row and q = 0 the left column, as in the 3×3 kernel"
    differ_from(got, folded(low, high).flip(-1, -2), turned)
    differ_from(got, folded(low, high, weight.flip(-1, -2)), turned)
    cut = torch.stack([torch.stack([weight[..., a : a + 2, b : b + 2] for b in range(2)]) for a in range(2)])
    differ_from(got, cut, "a piece of the 3×3 kernel was cut out; the weights left out meet the same pixels")
    wanted = F.conv2d(F.interpolate(x, scale_factor=2), weight, padding=1)
    built = torch.zeros_like(wanted)
    for a, b in itertools.product(range(2), range(2)):
        built[:, :, a::2, b::2] = F.conv2d(F.pad(x, (1 - b, b, 1 - a, a)), got[a, b])
    agree(built, wanted, "what the four convolutions give, beside repeat and convolve", 1e-9)
