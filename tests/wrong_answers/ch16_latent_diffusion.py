"""Plausible mistakes in chapter 16's exercises; each docstring is what the check should say."""

import torch
import torch.nn.functional as F
from torch import Tensor


def matched_alpha_bar__unchanged(alpha_bar: Tensor, deviation: float) -> Tensor:
    """the schedule that was meant, unchanged"""
    return alpha_bar.clone()


def matched_alpha_bar__deviation_for_variance(alpha_bar: Tensor, deviation: float) -> Tensor:
    """s² belongs there, not s"""
    return alpha_bar / (alpha_bar + deviation * (1 - alpha_bar))


def matched_alpha_bar__upside_down(alpha_bar: Tensor, deviation: float) -> Tensor:
    """wide latents need less of a, not more"""
    return alpha_bar * deviation**2 / (alpha_bar * deviation**2 + 1 - alpha_bar)


def matched_alpha_bar__upside_down_and_deviation(alpha_bar: Tensor, deviation: float) -> Tensor:
    """the wrong way round, and s for s²"""
    return alpha_bar * deviation / (alpha_bar * deviation + 1 - alpha_bar)


def matched_alpha_bar__signal_alone(alpha_bar: Tensor, deviation: float) -> Tensor:
    """σ has to follow: σ² = 1 − ᾱ"""
    return alpha_bar / deviation**2


def matched_alpha_bar__multiplied(alpha_bar: Tensor, deviation: float) -> Tensor:
    """a was multiplied by s"""
    return (alpha_bar * deviation**2).clamp(max=1)


def matched_alpha_bar__root(alpha_bar: Tensor, deviation: float) -> Tensor:
    """that is the signal rate"""
    return (alpha_bar / (alpha_bar + deviation**2 * (1 - alpha_bar))).sqrt()


def matched_alpha_bar__noise(alpha_bar: Tensor, deviation: float) -> Tensor:
    """that is 1 − ᾱ"""
    return 1 - alpha_bar / (alpha_bar + deviation**2 * (1 - alpha_bar))


def matched_alpha_bar__divided_by_zero(alpha_bar: Tensor, deviation: float) -> Tensor:
    """∞/∞ is not a number"""
    snr = alpha_bar / (1 - alpha_bar) / deviation**2
    return snr / (1 + snr)


def matched_alpha_bar__shifted_twice(alpha_bar: Tensor, deviation: float) -> Tensor:
    """λ is half of log SNR"""
    return alpha_bar / (alpha_bar + deviation**4 * (1 - alpha_bar))


def matched_alpha_bar__float32(alpha_bar: Tensor, deviation: float) -> Tensor:
    """float64 is wanted, not torch.float32"""
    return (alpha_bar / (alpha_bar + deviation**2 * (1 - alpha_bar))).float()


def _prior(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    return mean.mean(0), torch.log(mean.var(0, correction=0) + torch.exp(log_var).mean(0))


def best_gaussian_prior__by_precision(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """weighed by precision"""
    weight = torch.exp(-log_var)
    return (mean * weight).sum(0) / weight.sum(0), _prior(mean, log_var)[1]


def best_gaussian_prior__standard(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """its mean may move"""
    return torch.zeros_like(mean[0]), _prior(mean, log_var)[1]


def best_gaussian_prior__mean_of_logarithms(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """logarithms were averaged"""
    return mean.mean(0), log_var.mean(0)


def best_gaussian_prior__variances_alone(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """the spread of the means is missing"""
    return mean.mean(0), torch.log(torch.exp(log_var).mean(0))


def best_gaussian_prior__means_alone(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """the variances of the latents themselves are missing"""
    return mean.mean(0), torch.log(mean.var(0, correction=0))


def best_gaussian_prior__unbiased(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """so divide by N"""
    return mean.mean(0), torch.log(mean.var(0) + torch.exp(log_var).mean(0))


def best_gaussian_prior__second_moment(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """subtract the square of the mean"""
    return mean.mean(0), torch.log((mean**2 + torch.exp(log_var)).mean(0))


def best_gaussian_prior__log_deviation(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """that is the log of the deviation"""
    return mean.mean(0), _prior(mean, log_var)[1] / 2


def best_gaussian_prior__variance(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """its logarithm is wanted"""
    return mean.mean(0), torch.exp(_prior(mean, log_var)[1])


def best_gaussian_prior__precisions(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """precisions were averaged"""
    return mean.mean(0), -torch.log(torch.exp(-log_var).mean(0))


def _others(tensor: Tensor, token: int, dim: int) -> Tensor:
    return torch.cat([tensor.narrow(dim, 0, token), tensor.narrow(dim, token + 1, tensor.shape[dim] - token - 1)], dim)


def without_token__nothing(weight: Tensor, value: Tensor, token: int) -> Tensor:
    """the token is still looked at"""
    return weight @ value


def without_token__not_divided(weight: Tensor, value: Tensor, token: int) -> Tensor:
    """divided by their sum"""
    silent = value.clone()
    silent[:, :, token] = 0
    return weight @ silent


def without_token__softmax_again(weight: Tensor, value: Tensor, token: int) -> Tensor:
    """a softmax of weights"""
    return _others(weight, token, 3).softmax(-1) @ _others(value, token, 2)


def without_token__zero_score(weight: Tensor, value: Tensor, token: int) -> Tensor:
    """exp(0) = 1"""
    hidden = weight.clone()
    hidden[..., token] = 0
    return hidden.softmax(-1) @ value


def without_token__evenly(weight: Tensor, value: Tensor, token: int) -> Tensor:
    """a softmax divides it in proportion"""
    share = weight[..., token, None] / (weight.shape[-1] - 1)
    return (_others(weight, token, 3) + share) @ _others(value, token, 2)


def without_token__by_its_own_share(weight: Tensor, value: Tensor, token: int) -> Tensor:
    """divided by the token's own share"""
    return without_token__not_divided(weight, value, token) / weight[..., token, None]


def without_token__one_share_for_all(weight: Tensor, value: Tensor, token: int) -> Tensor:
    """each position has a share of its own"""
    return without_token__not_divided(weight, value, token) / (1 - weight[..., token, None]).mean(2, keepdim=True)


def without_token__multiplied(weight: Tensor, value: Tensor, token: int) -> Tensor:
    """multiplied by what is left"""
    return without_token__not_divided(weight, value, token) * (1 - weight[..., token, None])


def without_token__the_token_alone(weight: Tensor, value: Tensor, token: int) -> Tensor:
    """that is what this token adds"""
    return weight[..., token, None] * value[..., token, None, :]


def without_token__still_there(weight: Tensor, value: Tensor, token: int) -> Tensor:
    """take it away first"""
    return weight @ value / (1 - weight[..., token, None])


def without_token__equal_shares(weight: Tensor, value: Tensor, token: int) -> Tensor:
    """as if every token had the same share"""
    return without_token__not_divided(weight, value, token) * value.shape[2] / (value.shape[2] - 1)


def without_token__in_place(weight: Tensor, value: Tensor, token: int) -> Tensor:
    """work on a copy"""
    left = 1 - weight[..., token, None]
    weight[..., token] = 0
    return weight @ value / left


def _fold(weight: Tensor, bias: Tensor | None, image: Tensor) -> Tensor:
    return F.conv2d(image, weight[:, weight.shape[1] - image.shape[1] :], bias, padding=1)


def _own(weight: Tensor, image: Tensor) -> Tensor:
    return weight[:, : weight.shape[1] - image.shape[1]]


def folded_condition__no_bias(weight: Tensor, bias: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """the bias is missing"""
    return _own(weight, image), _fold(weight, None, image)


def folded_condition__bias_twice(weight: Tensor, bias: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """the bias was added twice"""
    return _own(weight, image), _fold(weight, bias, image) + bias[:, None, None]


def folded_condition__first_channels(weight: Tensor, bias: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """the image's weights are the last"""
    return _own(weight, image), F.conv2d(image, weight[:, : image.shape[1]], bias, padding=1)


def folded_condition__channels_swapped(weight: Tensor, bias: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """x_t's channels come first"""
    return weight[:, image.shape[1] :], F.conv2d(image, weight[:, : image.shape[1]], bias, padding=1)


def folded_condition__flipped(weight: Tensor, bias: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """does not flip its kernel"""
    return _own(weight, image), _fold(weight.flip(2, 3), bias, image)


def folded_condition__no_margin(weight: Tensor, bias: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """the shape is (2, 4, 4, 4)"""
    return _own(weight, image), F.conv2d(image, weight[:, weight.shape[1] - image.shape[1] :], bias)


def folded_condition__continued(weight: Tensor, bias: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """the margin is zeros"""
    wide = F.pad(image, (1, 1, 1, 1), mode="replicate")
    return _own(weight, image), F.conv2d(wide, weight[:, weight.shape[1] - image.shape[1] :], bias)


def folded_condition__one_number(weight: Tensor, bias: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """the bias differs from place to place"""
    added = _fold(weight, bias, image)
    return _own(weight, image), added.mean((2, 3), keepdim=True).expand_as(added)


def folded_condition__one_image(weight: Tensor, bias: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """each example has an image of its own"""
    added = _fold(weight, bias, image)
    return _own(weight, image), added.mean(0, keepdim=True).expand_as(added)


def folded_condition__summed_kernel(weight: Tensor, bias: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """the kernel was summed"""
    image_weight = weight[:, weight.shape[1] - image.shape[1] :]
    return weight[:, : weight.shape[1] - image.shape[1]], F.conv2d(image, image_weight.sum((2, 3), keepdim=True), bias)


def folded_condition__map_alone(weight: Tensor, bias: Tensor, image: Tensor) -> Tensor:
    """2 things are to be returned"""
    return _fold(weight, bias, image)


def _parts(alpha_bar: Tensor, deviation: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """½ (SNR(t−1) − SNR(t)), the factors' difference, E z_t², σ², for t = 2 … T."""
    snr = alpha_bar[1:] / (1 - alpha_bar[1:])
    a2, n2 = alpha_bar[2:], 1 - alpha_bar[2:]
    total = a2 * deviation**2 + n2
    return 0.5 * (snr[:-1] - snr[1:]), a2.sqrt() * (1 - deviation**2 / total), total, n2


def mismatch_of_chain__whole_error(alpha_bar: Tensor, deviation: float) -> Tensor:
    """the smallest possible one has to be paid in any case"""
    weight, apart, total, n2 = _parts(alpha_bar, deviation)
    return weight * (apart**2 * total + deviation**2 * n2 / total)


def mismatch_of_chain__not_weighed(alpha_bar: Tensor, deviation: float) -> Tensor:
    """the squared errors themselves"""
    _, apart, total, _ = _parts(alpha_bar, deviation)
    return apart**2 * total


def mismatch_of_chain__no_half(alpha_bar: Tensor, deviation: float) -> Tensor:
    """the ½ is missing"""
    weight, apart, total, _ = _parts(alpha_bar, deviation)
    return 2 * weight * apart**2 * total


def mismatch_of_chain__snr_alone(alpha_bar: Tensor, deviation: float) -> Tensor:
    """weighs with a difference"""
    _, apart, total, n2 = _parts(alpha_bar, deviation)
    return 0.5 * (1 - n2) / n2 * apart**2 * total


def mismatch_of_chain__one_early(alpha_bar: Tensor, deviation: float) -> Tensor:
    """this one is at t − 1"""
    weight = _parts(alpha_bar, deviation)[0]
    _, apart, total, _ = _parts(torch.cat([alpha_bar[:1], alpha_bar[:-1]]), deviation)
    return weight * apart**2 * total


def mismatch_of_chain__sign(alpha_bar: Tensor, deviation: float) -> Tensor:
    """the sign: SNR falls with t"""
    weight, apart, total, _ = _parts(alpha_bar, deviation)
    return -weight * apart**2 * total


def mismatch_of_chain__factors_alone(alpha_bar: Tensor, deviation: float) -> Tensor:
    """E z_t² is a² s² + σ² here, not 1"""
    weight, apart, _, _ = _parts(alpha_bar, deviation)
    return weight * apart**2


def mismatch_of_chain__differences_of_squares(alpha_bar: Tensor, deviation: float) -> Tensor:
    """a difference of squares is no square of a difference"""
    weight, _, total, _ = _parts(alpha_bar, deviation)
    a2 = alpha_bar[2:]
    return weight * (a2 - a2 * deviation**4 / total**2).abs() * total


def mismatch_of_chain__of_the_noise(alpha_bar: Tensor, deviation: float) -> Tensor:
    """that is the error of ε̂"""
    weight, apart, total, n2 = _parts(alpha_bar, deviation)
    return weight * apart**2 * total * (1 - n2) / n2


def mismatch_of_chain__least_of_the_noise(alpha_bar: Tensor, deviation: float) -> Tensor:
    """(16.5) is the least error of ε̂"""
    weight, apart, total, n2 = _parts(alpha_bar, deviation)
    theirs = apart**2 * total + deviation**2 * n2 / total
    return weight * (theirs - (1 - n2) * deviation**2 / total)


def mismatch_of_chain__unit_latents(alpha_bar: Tensor, deviation: float) -> Tensor:
    """an s² is missing"""
    weight, apart, total, n2 = _parts(alpha_bar, deviation)
    return weight * (apart**2 * total + deviation**2 * n2 / total - n2 / total)


def mismatch_of_chain__with_the_first_step(alpha_bar: Tensor, deviation: float) -> Tensor:
    """the shape is (8,)"""
    weight, apart, total, _ = _parts(alpha_bar, deviation)
    return torch.cat([torch.zeros(1, dtype=torch.float64), weight * apart**2 * total])
