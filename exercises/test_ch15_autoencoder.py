"""Checks of chapter 15's exercises."""

import math

import torch
from checks import agree, asked, differ_from, number, several, shaped


def _randn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_channel_scale(answer):
    size = torch.tensor([1.0, 3.0, 0.2]).view(3, 1, 1)
    mean, log_var = _randn(5, 3, 2, 4, seed=1) * size + size.square(), _randn(5, 3, 2, 4, seed=2) - 1
    shift, scale = several(asked(answer.channel_scale, mean, log_var), 2, "channel_scale")
    shift = shaped(shift, (3,), "channel_scale, the shift").double()
    flat = mean.transpose(0, 1).flatten(1)
    agree(shift, flat.mean(1), "channel_scale, the shift")
    scale = shaped(scale, (3,), "channel_scale, the scale").double()
    between, around = flat.var(1, correction=0), log_var.exp().transpose(0, 1).flatten(1).mean(1)
    differ_from(scale, between.rsqrt(), "the means alone: a draw also varies around its mean")
    differ_from(scale, around.rsqrt(), "the variances alone: the means vary from picture to picture")
    differ_from(scale, (between + around).sqrt(), "that is the deviation; what is multiplied by is one over it")
    differ_from(scale, 1 / (between + around), "divided by the variance: a scale is one over a deviation, so take the root")
    overall = (mean.var(correction=0) + log_var.exp().mean()).rsqrt().expand(3)
    differ_from(scale, overall, "one number for all: every channel has its own")
    narrow = (0.5 * log_var).exp().transpose(0, 1).flatten(1).mean(1).square()
    differ_from(scale, (between + narrow).rsqrt(), "the mean of σ, squared, is not the mean of σ²")
    differ_from(
        scale, (between.sqrt() + around.sqrt()).reciprocal(), "deviations were added; of independent parts the variances add"
    )
    places = mean.var(0, correction=0).mean((1, 2)) + around
    differ_from(scale, places.rsqrt(), "a channel varies from place to place too, not only from picture to picture")
    unbiased = (flat.var(1) + around).rsqrt()
    differ_from(scale, unbiased, "divide by the number of values, not by one less", 1e-9)
    agree(scale, (between + around).rsqrt(), "channel_scale, the scale")


def test_patch_size(answer):
    stacks = [
        ([3, 5, 1, 2], [1, 3, 2, 1]),
        ([4, 4, 4], [2, 1, 1]),
        ([4, 4, 4, 4], [2, 2, 1, 1]),
        ([7], [4]),
        ([3, 3, 3], [1, 1, 1]),
    ]

    def needed(kernels, strides):
        """Which inputs the outputs' first and last values touch, index by index."""
        first = last = 0
        for kernel, stride in list(zip(kernels, strides, strict=True))[::-1]:
            first, last = first * stride, last * stride + kernel - 1
        return last - first + 1

    for kernels, strides in stacks:
        got = answer.patch_size(list(kernels), list(strides))
        got = number(got, f"patch_size({kernels}, {strides})")
        wanted = needed(kernels, strides)
        forwards, jump = 1, 1
        for kernel, stride in zip(kernels, strides, strict=True):
            jump *= stride
            forwards += (kernel - 1) * jump
        product = 1
        for kernel, stride in zip(kernels[::-1], strides[::-1], strict=True):
            product = product * stride + kernel
        wrong = {
            "that forgets the strides": 1 + sum(kernel - 1 for kernel in kernels),
            "a layer's own stride does not spread its own kernel; the strides of the layers before it do": forwards,
            "that starts from the first layer: walk backwards, from the last": needed(kernels[::-1], strides[::-1]),
            "n neighbours are n − 1 strides apart, not n": product,
            "that is the product of the strides, by how much the map shrinks": math.prod(strides),
            "kernels were multiplied": math.prod(kernels),
        }
        for mistake, value in wrong.items():
            if value != wanted:
                differ_from(got, value, f"patch_size({kernels}, {strides}): {mistake}")
        agree(got, wanted, f"patch_size({kernels}, {strides})")


def test_level_of(answer):
    variances = torch.tensor([0.5, 4.0, 0.1, 1.0, 2.0], dtype=torch.float64)
    for error in (0.3, 0.5, 1.4, 3.0, 5.5, 7.5):
        got = number(asked(answer.level_of, variances, error), f"level_of for an error of {error}")
        low, high = 0.0, 4.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if variances.clamp(max=middle).sum() < error else (low, middle)
        differ_from(got, -1.0, "a level is positive")
        cases = {
            "the error was shared evenly: a direction that varies less than the level cannot be more wrong than it varies": error
            / 5,
            "that is as a share of the whole variance": error / 7.6,
            "that is the variance that is kept, not the level": 7.6 - error,
        }
        for mistake, value in cases.items():
            if abs(value - low) > 1e-6:
                differ_from(got, value, mistake)
        under = variances[variances < low].sum().item()
        if under and abs((error - under) / 5 - low) > 1e-6:
            differ_from(got, (error - under) / 5, "the rest is shared among the directions above the water, not among all")
        if under:
            open_ones = int((variances >= low).sum())
            differ_from(got, error / max(open_ones, 1), "what lies under water costs its own variance: take that off first")
        agree(got, (low + high) / 2, f"level_of for an error of {error}", 1e-9)


def test_moving_codes(answer):
    codebook = torch.cat([_randn(4, 2, seed=3), torch.full((1, 2), 50.0, dtype=torch.float64)])
    counts, z = torch.tensor([3.0, 1.0, 2.0, 4.0, 0.001], dtype=torch.float64), _randn(30, 2, seed=5)
    sums = codebook * counts[:, None] + 0.1 * _randn(5, 2, seed=4)
    decay, floor = 0.8, 0.01
    got = several(asked(answer.moving_codes, codebook, counts, sums, z, decay, floor), 3, "moving_codes")
    names = ("the codebook", "the counts", "the sums")
    shapes = ((5, 2), (5,), (5, 2))
    got = [shaped(each, shape, f"moving_codes, {name}").double() for each, shape, name in zip(got, shapes, names, strict=True)]
    nearest = torch.tensor([min(range(5), key=lambda k, v=v: (v - codebook[k]).square().sum().item()) for v in z])
    batch_counts = torch.stack([(nearest == k).sum() for k in range(5)]).double()
    batch_sums = torch.stack([z[nearest == k].sum(0) for k in range(5)])
    new_counts, new_sums = 0.8 * counts + 0.2 * batch_counts, 0.8 * sums + 0.2 * batch_sums
    differ_from(got[1], 0.2 * counts + 0.8 * batch_counts, "decay and 1 − decay have changed places: γ keeps the past")
    differ_from(got[1], counts + batch_counts, "the counts are averages that forget, not totals")
    differ_from(got[1], 0.8 * counts + batch_counts, "the batch enters with 1 − γ")
    differ_from(
        got[1], new_counts.clamp(min=floor), "the floor is for the division alone; the counts themselves go on without it"
    )
    farthest = torch.tensor([max(range(5), key=lambda k, v=v: (v - codebook[k]).square().sum().item()) for v in z])
    wrong = torch.stack([(farthest == k).sum() for k in range(5)]).double()
    differ_from(got[1], 0.8 * counts + 0.2 * wrong, "the farthest code was chosen")
    products = (z @ codebook.T).argmax(1)
    wrong = torch.stack([(products == k).sum() for k in range(5)]).double()
    differ_from(got[1], 0.8 * counts + 0.2 * wrong, "the nearest code is not the one of the largest product: ‖e‖² matters")
    agree(got[1], new_counts, "moving_codes, the counts")
    means = torch.where(batch_counts[:, None] > 0, batch_sums / batch_counts.clamp(min=1)[:, None], codebook)
    differ_from(got[2], 0.8 * sums + 0.2 * means, "the batch's sum, not its mean: the counts divide once, at the end")
    agree(got[2], new_sums, "moving_codes, the sums")
    differ_from(got[0], 0.8 * codebook + 0.2 * means, "codes were averaged; average sums and counts, and divide")
    differ_from(got[0], new_sums / new_counts[:, None], "a count below the floor is replaced by the floor")
    differ_from(got[0], new_sums / (new_counts + floor)[:, None], "the floor is a least value, and is not added")
    differ_from(got[0], means, "that is Lloyd's step on this batch alone: the past is forgotten")
    differ_from(got[0], new_sums / counts.clamp(min=floor)[:, None], "the new sums are divided by the new counts, not the old")
    differ_from(got[0], sums / counts.clamp(min=floor)[:, None], "the codebook is one batch late: divide the *new* sums")
    agree(got[0], new_sums / new_counts.clamp(min=floor)[:, None], "moving_codes, the codebook")


def test_finite_scalar(answer):
    levels, z = [5, 3, 7], 1.2 * _randn(2, 3, 4, 5, seed=6)
    half = torch.tensor([2.0, 1.0, 3.0], dtype=torch.float64).view(3, 1, 1)
    given = z.clone().requires_grad_()
    out, codes = several(answer.finite_scalar(given, list(levels)), 2, "finite_scalar")
    got = shaped(out, (2, 3, 4, 5), "finite_scalar, the quantised z").double()
    grid = (half * torch.tanh(z)).round()
    differ_from(got, grid, "whole numbers: divide by m, so that the values reach from −1 to 1")
    differ_from(got, (half * z).round() / half, "z was not squeezed: without tanh there are more than L values")
    differ_from(got, (half * z.clamp(-1, 1)).round() / half, "z was cut off; squeeze it with tanh")
    differ_from(got, (half * torch.tanh(z)).floor() / half, "rounded down: the nearest whole number is wanted")
    sizes = (2 * half + 1).squeeze()
    differ_from(
        got, (sizes.view(3, 1, 1) * torch.tanh(z)).round() / sizes.view(3, 1, 1), "m is (L − 1)/2; with L there are 2L + 1 values"
    )
    differ_from(got, torch.tanh(z), "nothing was rounded")
    agree(got, grid / half, "finite_scalar, the quantised z")
    assert out.requires_grad, "no gradient reaches z: `round` has none, so pass it straight through"
    above = _randn(2, 3, 4, 5, seed=7)
    out.backward(above)
    slope = torch.zeros_like(z) if given.grad is None else given.grad
    differ_from(slope, torch.zeros_like(z), "no gradient reaches z: `round` has none, so pass it straight through")
    differ_from(slope, above, "tanh is passed by as well: only the rounding is straight through")
    differ_from(slope, above * (1 - torch.tanh(z) ** 2) * half, "the gradient is m times too large: the division has one too")
    agree(slope, above * (1 - torch.tanh(z) ** 2), "finite_scalar, the gradient")
    assert isinstance(codes, torch.Tensor) and codes.dtype == torch.int64, "the codes are whole numbers, int64"
    numbers = shaped(codes, (2, 4, 5), "finite_scalar, the codes")
    digits = (grid + half).long()
    reversed_order = (digits[:, 0] * 3 + digits[:, 1]) * 7 + digits[:, 2]
    differ_from(numbers, reversed_order, "the last channel counts fastest; channel 0 should")
    differ_from(numbers, digits.sum(1), "the digits were added: different codes get one number")
    differ_from(
        numbers, digits[:, 0] * 5 + digits[:, 1] * 15 + digits[:, 2] * 105, "the first base is 1: the product over b < c is empty"
    )
    signed = grid.long()
    differ_from(numbers, signed[:, 0] + 5 * signed[:, 1] + 15 * signed[:, 2], "digits begin at 0: add m, or numbers are negative")
    agree(numbers, digits[:, 0] + 5 * digits[:, 1] + 15 * digits[:, 2], "finite_scalar, the codes")
