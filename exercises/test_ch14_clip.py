"""Checks of chapter 14's exercises."""

import itertools
import math

import torch
from checks import agree, asked, differ_from, number, shaped


def _randn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _unit(vectors):
    return vectors / vectors.square().sum(1, keepdim=True).sqrt()


def _surprise(logits, axis):
    """−log of the diagonal's share of its row (axis 1) or column (axis 0)."""
    logits = logits - logits.amax(axis, keepdim=True)
    return logits.exp().sum(axis).log() - logits.diagonal()


def test_symmetric_loss(answer):
    pictures, captions, log_scale = 3 * _randn(6, 4, seed=1), _randn(6, 4, seed=2), torch.tensor(1.7, dtype=torch.float64)
    captions = captions + 0.3 * pictures
    got = asked(answer.symmetric_loss, pictures, captions, log_scale)
    assert getattr(got, "shape", None) != (), "one number for each pair is wanted, not their mean"
    got = shaped(got, (6,), "symmetric_loss").double()
    cosines = _unit(pictures) @ _unit(captions).T

    def both(logits):
        return (_surprise(logits, 1) + _surprise(logits, 0)) / 2

    logits = log_scale.exp() * cosines
    differ_from(got, _surprise(logits, 1), "that is one direction: the columns have a say as well")
    differ_from(got, _surprise(logits, 0), "that is one direction: the rows have a say as well")
    differ_from(got, 2 * both(logits), "the sum of the two directions; their mean is wanted")
    differ_from(got, both(log_scale * cosines), "log s was used as if it were s: the exponential is missing")
    differ_from(got, both(cosines / log_scale.exp()), "divided by the scale: cosines are multiplied by it")
    differ_from(got, both(log_scale.exp() * pictures @ captions.T), "the vectors were not brought to length one")
    whole = log_scale.exp() * (pictures / pictures.norm()) @ (captions / captions.norm()).T
    differ_from(got, both(whole), "each vector has a length of its own: the norm is taken along each row")
    agree(got, both(logits), "symmetric_loss")
    far = torch.tensor(7.0, dtype=torch.float64)
    large = shaped(asked(answer.symmetric_loss, pictures, captions, far), (6,), "symmetric_loss, of logits beyond 1000").double()
    differ_from(large, both(100 * cosines), "the scale was stopped at 100, as in `Clip`; here it is what it is given as")
    agree(large, both(far.exp() * cosines), "symmetric_loss, of logits beyond 1000")
    swapped = answer.symmetric_loss(captions.clone(), pictures.clone(), log_scale.clone())
    agree(swapped, both(logits), "symmetric_loss, with pictures and captions exchanged")


def test_expected_floor(answer):
    frequencies, count = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 4
    got = number(asked(answer.expected_floor, frequencies, count), "expected_floor")

    def enumerated(value, count=count):
        """The mean of value(captions of the batch) by going through all batches."""
        total = 0.0
        for batch in itertools.product(range(3), repeat=count):
            total += math.prod(frequencies[k].item() for k in batch) * value(batch)
        return total

    wanted = enumerated(lambda batch: math.log(batch.count(batch[0])))

    def binomial(n, p):
        return [math.comb(n, b) * p**b * (1 - p) ** (n - b) for b in range(n + 1)]

    of_caption = [sum(chance * math.log1p(b) for b, chance in enumerate(binomial(3, f))) for f in frequencies.tolist()]
    differ_from(got, sum(of_caption) / 3, "all captions weigh alike there; pair and caption are drawn with frequency f_k")
    differ_from(got, sum(of_caption), "the sum over captions: each is met with frequency f_k only")
    one_more = sum(f * sum(chance * math.log(max(b, 1)) for b, chance in enumerate(binomial(4, f))) for f in frequencies.tolist())
    differ_from(got, one_more, "your own pair is no draw: of the other N − 1 pairs B have the same caption")
    extra = sum(f * sum(chance * math.log1p(b) for b, chance in enumerate(binomial(4, f))) for f in frequencies.tolist())
    differ_from(got, extra, "there are N − 1 others, not N")
    jensen = sum(f * math.log1p(3 * f) for f in frequencies.tolist())
    differ_from(got, jensen, "the logarithm of a mean: the mean of the logarithm is smaller (Jensen)")
    differ_from(
        got,
        math.log1p(3 * frequencies.square().sum().item()),
        "the logarithm of a mean: the mean of the logarithm is smaller (Jensen)",
    )
    third = sum(chance * math.log1p(b) for b, chance in enumerate(binomial(3, 1 / 3)))
    differ_from(got, third, "as if all captions were equally frequent")
    differ_from(got, wanted / math.log(2), "in bits; nats are wanted")
    agree(got, wanted, "expected_floor")
    agree(
        number(answer.expected_floor(frequencies.clone(), 1), "expected_floor of a single pair"),
        0.0,
        "expected_floor of a single pair",
    )
    only = number(answer.expected_floor(torch.ones(1, dtype=torch.float64), 5), "expected_floor of a single caption")
    agree(only, math.log(5), "expected_floor of a single caption")
    many = torch.tensor([0.1] * 10, dtype=torch.float64)
    right = sum(chance * math.log1p(b) for b, chance in enumerate(binomial(199, 0.1)))
    agree(number(answer.expected_floor(many, 200), "expected_floor of 200 pairs"), right, "expected_floor of 200 pairs")


def test_sigmoid_loss(answer):
    cosines = torch.tanh(_randn(5, 5, seed=3)) + 0.3 * torch.eye(5)
    log_scale, bias = torch.tensor(1.2, dtype=torch.float64), torch.tensor(-2.5, dtype=torch.float64)
    got = asked(answer.sigmoid_loss, cosines, log_scale, bias)
    assert getattr(got, "shape", None) != (), "one number for each picture is wanted, not one for the batch"
    assert getattr(got, "shape", None) != (5, 5), "one number for each picture is wanted: sum over its row"
    got = shaped(got, (5,), "sigmoid_loss").double()
    eye = torch.eye(5, dtype=torch.bool)

    def cells(logits):
        p = 1 / (1 + torch.exp(-logits))
        return -torch.where(eye, p, 1 - p).log()

    logits = log_scale.exp() * cosines + bias
    table = cells(logits)
    differ_from(got, table.diagonal(), "only the diagonal was asked: the no's count as well")
    differ_from(got, (-(1 / (1 + torch.exp(-logits))).log()).sum(1), "every cell was called a pair: off the diagonal no is right")
    differ_from(got, (-(1 / (1 + torch.exp(logits))).log()).sum(1), "no cell was called a pair: on the diagonal yes is right")
    differ_from(got, cells(-logits).sum(1), "the signs are the wrong way round: yes on the diagonal")
    differ_from(got, table.mean(1), "the mean over a row; its sum is wanted")
    differ_from(got, table.sum(0), "that is the sum over a column; picture i is charged for its row")
    differ_from(got, cells(log_scale.exp() * cosines).sum(1), "the bias was left out")
    differ_from(got, cells(log_scale * cosines + bias).sum(1), "log s was used as if it were s: the exponential is missing")
    differ_from(
        got, cells(log_scale.exp() * (cosines + bias)).sum(1), "the bias was multiplied by the scale; it is added afterwards"
    )
    differ_from(
        got, (table.sum(0) + table.sum(1)) / 2, "half of the row and half of the column; picture i is charged for its row"
    )
    other = torch.where(eye, logits - bias, logits)
    differ_from(got, cells(other).sum(1), "the bias belongs to every cell, the diagonal too")
    differ_from(got, _surprise(logits, 1), "that is a softmax over the row: here every cell answers for itself")
    agree(got, table.sum(1), "sigmoid_loss")
    large = answer.sigmoid_loss(
        1000 * (2.0 * eye - 1).double(), torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    )
    agree(shaped(large, (5,), "sigmoid_loss, of logits ±1000"), torch.zeros(5), "sigmoid_loss, of logits ±1000")
    wrong = answer.sigmoid_loss(
        1000 * (1 - 2.0 * eye).double(), torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    )
    agree(shaped(wrong, (5,), "sigmoid_loss, of logits ±1000"), torch.full((5,), 5000.0), "sigmoid_loss, of logits ±1000")


def _least(cosines, loss):
    """The scale between 0.01 and 100 at which a convex loss is least: golden sections."""
    low, high, ratio = 0.01, 100.0, (5**0.5 - 1) / 2
    for _ in range(120):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if loss(a * cosines) < loss(b * cosines) else (a, high)
    return (low + high) / 2


def test_best_scale(answer):
    u = _unit(_randn(20, 6, seed=4))
    cosines = u @ _unit(u + 0.35 * _randn(20, 6, seed=5)).T
    got = number(asked(answer.best_scale, cosines), "best_scale")

    def mean(logits):
        return ((_surprise(logits, 1) + _surprise(logits, 0)) / 2).mean().item()

    wanted = _least(cosines, mean)
    close_enough = 1e-4
    differ_from(
        got,
        _least(cosines, lambda logits: _surprise(logits, 1).mean().item()),
        "the rows alone: (14.2) has columns too",
        close_enough,
    )
    differ_from(
        got,
        _least(cosines, lambda logits: _surprise(logits, 0).mean().item()),
        "the columns alone: (14.2) has rows too",
        close_enough,
    )
    differ_from(got, 1 / wanted, "that is the temperature, 1/s", close_enough)
    differ_from(got, math.log(wanted), "that is log s", close_enough)
    grid = min(range(1, 101), key=lambda s: mean(s * cosines))
    differ_from(got, grid, "the best whole number: six digits are wanted", close_enough)
    first = _least(cosines, lambda logits: (_surprise(logits, 1) + _surprise(logits, 0))[0].item())
    differ_from(got, first, "the first pair alone: the mean over the batch is to be least", close_enough)
    assert 0.0101 < got < 99.9, (
        "an end of the interval: is the sign of the slope the wrong way round? Where it is negative, s must grow"
    )
    agree(got, wanted, "best_scale", 1e-5)
    sure = torch.eye(4, dtype=torch.float64)
    agree(number(answer.best_scale(sure.clone()), "best_scale of perfect towers"), 100.0, "best_scale of perfect towers", 1e-5)
    agree(
        number(answer.best_scale(-sure), "best_scale of towers that are always wrong"),
        0.01,
        "best_scale of towers that are always wrong",
        1e-5,
    )


def test_image_gradient(answer):
    u = _unit(_randn(7, 4, seed=6))
    w, scale = _unit(u + 0.8 * _randn(7, 4, seed=7)), 3.0
    got = asked(lambda u, w: answer.image_gradient(u, w, scale, 2, 5), u, w)
    got = shaped(got, (3, 4), "image_gradient").double()
    free = u.clone().requires_grad_()

    def slope(loss):
        return torch.autograd.grad(loss(scale * free @ w.T), free)[0][2:5]

    def both(logits):
        return ((_surprise(logits, 1) + _surprise(logits, 0)) / 2).mean()

    wanted = slope(both)
    differ_from(got, slope(lambda logits: _surprise(logits, 1).mean()), "the rows alone: u_i stands in every column as well")
    differ_from(
        got, slope(lambda logits: _surprise(logits, 1).mean() / 2), "half of the rows alone: u_i stands in every column as well"
    )
    differ_from(got, slope(lambda logits: _surprise(logits, 0).mean()), "the columns alone: u_i has a row as well")
    differ_from(got, 7 * wanted, "the gradient of the sum over the batch; the mean's is wanted")
    differ_from(got, wanted * 7 / 3, "the mean is over the whole batch, not over the piece")
    differ_from(got, wanted / scale, "the scale was left out: the logits are s times the cosines")
    differ_from(got, -wanted, "the sign: belief minus target")
    differ_from(got, 2 * wanted, "the sum of the two directions; (14.2) has their mean")
    piece = torch.autograd.grad(both(scale * free[2:5] @ w[2:5].T), free)[0][2:5]
    differ_from(
        got,
        piece,
        "the piece was taken for the batch: its pictures compete with all captions, and its captions with all pictures",
    )
    p = (scale * u @ w.T).softmax(1)
    own_column = (p - torch.eye(7, dtype=torch.float64))[2:5] @ w + torch.stack(
        [((scale * u @ w[i]).softmax(0)[i] - 1) * w[i] for i in range(2, 5)]
    )
    differ_from(got, scale / 14 * own_column, "u_i stands in every column, not in that of its own caption alone")
    both_beliefs = p - torch.eye(7, dtype=torch.float64) + ((scale * u @ w.T).softmax(0) - torch.eye(7, dtype=torch.float64)).T
    differ_from(got, scale / 14 * (both_beliefs @ w)[2:5], "the columns' beliefs are transposed: caption j's belief in picture i")
    no_target = ((scale * u @ w.T).softmax(1) + (scale * u @ w.T).softmax(0))[2:5] @ w
    differ_from(got, scale / 14 * no_target, "the target is missing: belief minus target")
    agree(got, wanted, "image_gradient")
    parts = torch.cat([answer.image_gradient(u.clone(), w.clone(), scale, a, b) for a, b in ((0, 3), (3, 4), (4, 7))])
    agree(parts, torch.autograd.grad(both(scale * free @ w.T), free)[0], "image_gradient, of all pieces")
