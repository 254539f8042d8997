"""Plausible mistakes in chapter 14's exercises; each docstring is what the check should say."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors, dim=1)


def _rows(logits: Tensor) -> Tensor:
    return torch.logsumexp(logits, 1) - logits.diagonal()


def _both(logits: Tensor) -> Tensor:
    return (_rows(logits) + _rows(logits.T)) / 2


def symmetric_loss__rows(pictures: Tensor, captions: Tensor, log_scale: Tensor) -> Tensor:
    """the columns have a say"""
    return _rows(log_scale.exp() * _unit(pictures) @ _unit(captions).T)


def symmetric_loss__columns(pictures: Tensor, captions: Tensor, log_scale: Tensor) -> Tensor:
    """the rows have a say"""
    return _rows(log_scale.exp() * _unit(captions) @ _unit(pictures).T)


def symmetric_loss__sum(pictures: Tensor, captions: Tensor, log_scale: Tensor) -> Tensor:
    """their mean is wanted"""
    return 2 * _both(log_scale.exp() * _unit(pictures) @ _unit(captions).T)


def symmetric_loss__no_exponential(pictures: Tensor, captions: Tensor, log_scale: Tensor) -> Tensor:
    """the exponential is missing"""
    return _both(log_scale * _unit(pictures) @ _unit(captions).T)


def symmetric_loss__divided(pictures: Tensor, captions: Tensor, log_scale: Tensor) -> Tensor:
    """divided by the scale"""
    return _both(_unit(pictures) @ _unit(captions).T / log_scale.exp())


def symmetric_loss__any_length(pictures: Tensor, captions: Tensor, log_scale: Tensor) -> Tensor:
    """not brought to length one"""
    return _both(log_scale.exp() * pictures @ captions.T)


def symmetric_loss__one_norm(pictures: Tensor, captions: Tensor, log_scale: Tensor) -> Tensor:
    """the norm is taken along each row"""
    return _both(log_scale.exp() * pictures / pictures.norm() @ (captions / captions.norm()).T)


def symmetric_loss__mean(pictures: Tensor, captions: Tensor, log_scale: Tensor) -> Tensor:
    """not their mean"""
    return _both(log_scale.exp() * _unit(pictures) @ _unit(captions).T).mean()


def symmetric_loss__stopped(pictures: Tensor, captions: Tensor, log_scale: Tensor) -> Tensor:
    """the scale was stopped at 100"""
    return _both(log_scale.exp().clamp(max=100) * _unit(pictures) @ _unit(captions).T)


def symmetric_loss__overflow(pictures: Tensor, captions: Tensor, log_scale: Tensor) -> Tensor:
    """some of it is infinite or not a number"""
    chances = (log_scale.exp() * _unit(pictures) @ _unit(captions).T).exp()
    return -((chances / chances.sum(1, keepdim=True)).diagonal().log() + (chances / chances.sum(0)).diagonal().log()) / 2


def _binomial(n: int, p: float) -> list[float]:
    return [math.comb(n, b) * p**b * (1 - p) ** (n - b) for b in range(n + 1)]


def expected_floor__alike(frequencies: Tensor, count: int) -> Tensor:
    """all captions weigh alike"""
    each = [sum(p * math.log1p(b) for b, p in enumerate(_binomial(count - 1, f))) for f in frequencies.tolist()]
    return torch.tensor(sum(each) / len(each), dtype=torch.float64)


def expected_floor__sum(frequencies: Tensor, count: int) -> Tensor:
    """each is met with frequency f_k"""
    each = [sum(p * math.log1p(b) for b, p in enumerate(_binomial(count - 1, f))) for f in frequencies.tolist()]
    return torch.tensor(sum(each), dtype=torch.float64)


def expected_floor__n_others(frequencies: Tensor, count: int) -> Tensor:
    """there are N − 1 others"""
    each = [f * sum(p * math.log1p(b) for b, p in enumerate(_binomial(count, f))) for f in frequencies.tolist()]
    return torch.tensor(sum(each), dtype=torch.float64)


def expected_floor__own_pair_drawn(frequencies: Tensor, count: int) -> Tensor:
    """your own pair is no draw"""
    each = [f * sum(p * math.log(max(b, 1)) for b, p in enumerate(_binomial(count, f))) for f in frequencies.tolist()]
    return torch.tensor(sum(each), dtype=torch.float64)


def expected_floor__log_of_mean(frequencies: Tensor, count: int) -> Tensor:
    """the mean of the logarithm is smaller"""
    return (frequencies * torch.log1p((count - 1) * frequencies)).sum()


def expected_floor__log_of_all(frequencies: Tensor, count: int) -> Tensor:
    """the logarithm of a mean"""
    return torch.log1p((count - 1) * frequencies.square().sum())


def expected_floor__uniform(frequencies: Tensor, count: int) -> Tensor:
    """as if all captions were equally frequent"""
    return torch.tensor(sum(p * math.log1p(b) for b, p in enumerate(_binomial(count - 1, 1 / len(frequencies)))))


def expected_floor__bits(frequencies: Tensor, count: int) -> Tensor:
    """nats are wanted"""
    each = [f * sum(p * math.log2(1 + b) for b, p in enumerate(_binomial(count - 1, f))) for f in frequencies.tolist()]
    return torch.tensor(sum(each), dtype=torch.float64)


def expected_floor__one_caption(frequencies: Tensor, count: int) -> Tensor:
    """expected_floor of a single caption is nan"""
    B = torch.arange(count, dtype=torch.float64)
    log_choose = math.lgamma(count) - torch.lgamma(B + 1) - torch.lgamma(count - B)
    f = frequencies[:, None]
    chances = (log_choose + B * f.log() + (count - 1 - B) * torch.log1p(-f)).exp()
    return (f * chances * torch.log1p(B)).sum()


def _signs(cosines: Tensor) -> Tensor:
    return 2 * torch.eye(len(cosines), dtype=cosines.dtype) - 1


def sigmoid_loss__diagonal(cosines: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """the no's count as well"""
    return -F.logsigmoid(log_scale.exp() * cosines + bias).diagonal()


def sigmoid_loss__all_yes(cosines: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """off the diagonal no is right"""
    return -F.logsigmoid(log_scale.exp() * cosines + bias).sum(1)


def sigmoid_loss__all_no(cosines: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """on the diagonal yes is right"""
    return -F.logsigmoid(-log_scale.exp() * cosines - bias).sum(1)


def sigmoid_loss__signs(cosines: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """the wrong way round"""
    return -F.logsigmoid(-_signs(cosines) * (log_scale.exp() * cosines + bias)).sum(1)


def sigmoid_loss__mean(cosines: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """its sum is wanted"""
    return -F.logsigmoid(_signs(cosines) * (log_scale.exp() * cosines + bias)).mean(1)


def sigmoid_loss__columns(cosines: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """picture i is charged for its row"""
    return -F.logsigmoid(_signs(cosines) * (log_scale.exp() * cosines + bias)).sum(0)


def sigmoid_loss__row_and_column(cosines: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """half of the row and half of the column"""
    cells = -F.logsigmoid(_signs(cosines) * (log_scale.exp() * cosines + bias))
    return (cells.sum(0) + cells.sum(1)) / 2


def sigmoid_loss__no_bias(cosines: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """the bias was left out"""
    return -F.logsigmoid(_signs(cosines) * log_scale.exp() * cosines).sum(1)


def sigmoid_loss__no_exponential(cosines: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """the exponential is missing"""
    return -F.logsigmoid(_signs(cosines) * (log_scale * cosines + bias)).sum(1)


def sigmoid_loss__scaled_bias(cosines: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """it is added afterwards"""
    return -F.logsigmoid(_signs(cosines) * log_scale.exp() * (cosines + bias)).sum(1)


def sigmoid_loss__softmax(cosines: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """every cell answers for itself"""
    return _rows(log_scale.exp() * cosines + bias)


def sigmoid_loss__overflow(cosines: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """some of it is infinite or not a number"""
    p = torch.sigmoid(log_scale.exp() * cosines + bias)
    return -torch.where(_signs(cosines) > 0, p, 1 - p).log().sum(1)


def _halved(slope) -> Tensor:
    """Bisection for the zero of a rising slope in log s."""
    low, high = math.log(0.01), math.log(100)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(math.exp(middle)) > 0 else (middle, high)
    return torch.tensor(math.exp((low + high) / 2), dtype=torch.float64)


def _slope(cosines: Tensor, rows: float = 0.5, columns: float = 0.5):
    def slope(scale: float) -> float:
        by_rows = ((scale * cosines).softmax(1) * cosines).sum()
        by_columns = ((scale * cosines).softmax(0) * cosines).sum()
        return (rows * by_rows + columns * by_columns - cosines.trace()).item()

    return slope


def best_scale__rows(cosines: Tensor) -> Tensor:
    """the rows alone"""
    return _halved(_slope(cosines, 1.0, 0.0))


def best_scale__columns(cosines: Tensor) -> Tensor:
    """the columns alone"""
    return _halved(_slope(cosines, 0.0, 1.0))


def best_scale__temperature(cosines: Tensor) -> Tensor:
    """that is the temperature"""
    return 1 / _halved(_slope(cosines))


def best_scale__logarithm(cosines: Tensor) -> Tensor:
    """that is log s"""
    return _halved(_slope(cosines)).log()


def best_scale__sign(cosines: Tensor) -> Tensor:
    """is the sign of the slope the wrong way round"""
    return torch.tensor(0.01) if _slope(cosines)(1.0) < 0 else torch.tensor(100.0)


def best_scale__whole(cosines: Tensor) -> Tensor:
    """six digits are wanted"""
    return torch.tensor(min(range(1, 101), key=lambda s: _both(s * cosines).mean().item()))


def best_scale__first(cosines: Tensor) -> Tensor:
    """the first pair alone"""

    def slope(scale: float) -> float:
        logits = scale * cosines
        believed = (logits[0].softmax(0) * cosines[0] + logits[:, 0].softmax(0) * cosines[:, 0]).sum() / 2
        return (believed - cosines[0, 0]).item()

    return _halved(slope)


def best_scale__never_stops(cosines: Tensor) -> Tensor:
    """best_scale of perfect towers"""
    scale = _halved(_slope(cosines))
    return torch.tensor(1e4, dtype=torch.float64) if scale > 99.9 else scale


def _excess(u: Tensor, w: Tensor, scale: float, rows: float = 0.5, columns: float = 0.5) -> Tensor:
    logits = scale * u @ w.T
    return rows * logits.softmax(1) + columns * logits.softmax(0) - (rows + columns) * torch.eye(len(u), dtype=u.dtype)


def image_gradient__rows(u: Tensor, w: Tensor, scale: float, start: int, stop: int) -> Tensor:
    """the rows alone: u_i stands in every column"""
    return scale / len(u) * _excess(u, w, scale, 1.0, 0.0)[start:stop] @ w


def image_gradient__half_rows(u: Tensor, w: Tensor, scale: float, start: int, stop: int) -> Tensor:
    """half of the rows alone"""
    return scale / len(u) * _excess(u, w, scale, 0.5, 0.0)[start:stop] @ w


def image_gradient__columns(u: Tensor, w: Tensor, scale: float, start: int, stop: int) -> Tensor:
    """the columns alone"""
    return scale / len(u) * _excess(u, w, scale, 0.0, 1.0)[start:stop] @ w


def image_gradient__sum(u: Tensor, w: Tensor, scale: float, start: int, stop: int) -> Tensor:
    """the mean's is wanted"""
    return scale * _excess(u, w, scale)[start:stop] @ w


def image_gradient__mean_of_piece(u: Tensor, w: Tensor, scale: float, start: int, stop: int) -> Tensor:
    """not over the piece"""
    return scale / (stop - start) * _excess(u, w, scale)[start:stop] @ w


def image_gradient__no_scale(u: Tensor, w: Tensor, scale: float, start: int, stop: int) -> Tensor:
    """the scale was left out"""
    return _excess(u, w, scale)[start:stop] @ w / len(u)


def image_gradient__sign(u: Tensor, w: Tensor, scale: float, start: int, stop: int) -> Tensor:
    """the sign: belief minus target"""
    return -scale / len(u) * _excess(u, w, scale)[start:stop] @ w


def image_gradient__piece(u: Tensor, w: Tensor, scale: float, start: int, stop: int) -> Tensor:
    """the piece was taken for the batch"""
    return scale / (stop - start) * _excess(u[start:stop], w[start:stop], scale) @ w[start:stop]


def image_gradient__no_target(u: Tensor, w: Tensor, scale: float, start: int, stop: int) -> Tensor:
    """the target is missing"""
    logits = scale * u @ w.T
    return scale / (2 * len(u)) * (logits.softmax(1) + logits.softmax(0))[start:stop] @ w


def image_gradient__transposed(u: Tensor, w: Tensor, scale: float, start: int, stop: int) -> Tensor:
    """the columns' beliefs are transposed"""
    both = _excess(u, w, scale, 0.5, 0.0) + _excess(u, w, scale, 0.0, 0.5).T
    return scale / len(u) * both[start:stop] @ w


def image_gradient__own_column(u: Tensor, w: Tensor, scale: float, start: int, stop: int) -> Tensor:
    """not in that of its own caption alone"""
    rows = (scale * u @ w.T).softmax(1) - torch.eye(len(u), dtype=u.dtype)
    columns = torch.diag((scale * u @ w.T).softmax(0).diagonal() - 1)
    return scale / (2 * len(u)) * (rows + columns)[start:stop] @ w
