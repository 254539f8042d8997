"""Plausible mistakes in the exercises of chapter 04; each docstring is what the check must say."""

import math

import torch


def bernoulli_score_gradient__score_only(f, logit, coins, baseline=0.0):
    """the score alone"""
    return coins - 1 / (1 + math.exp(-logit))


def bernoulli_score_gradient__sign(f, logit, coins, baseline=0.0):
    """the sign is turned round"""
    return (f(coins) - baseline) * (1 / (1 + math.exp(-logit)) - coins)


def bernoulli_score_gradient__in_pi(f, logit, coins, baseline=0.0):
    """the derivative in π"""
    pi = 1 / (1 + math.exp(-logit))
    return (f(coins) - baseline) * (coins / pi - (1 - coins) / (1 - pi))


def bernoulli_score_gradient__baseline_outside(f, logit, coins, baseline=0.0):
    """you took it from the product"""
    return f(coins) * (coins - 1 / (1 + math.exp(-logit))) - baseline


def bernoulli_score_gradient__no_baseline(f, logit, coins, baseline=0.0):
    """the baseline changes nothing in your answer"""
    return f(coins) * (coins - 1 / (1 + math.exp(-logit)))


def bernoulli_score_gradient__averaged(f, logit, coins, baseline=0.0):
    """the shape is (), wanted is (5,)"""
    return ((f(coins) - baseline) * (coins - 1 / (1 + math.exp(-logit)))).mean()


def best_baseline__mean(values, scores):
    """the mean of f"""
    return values.mean()


def best_baseline__one_score_missing(values, scores):
    """one s is missing above"""
    return (values * scores).mean() / (scores**2).mean()


def best_baseline__not_divided(values, scores):
    """divide by E[s²] too"""
    return (values * scores**2).mean()


def best_baseline__per_draw(values, scores):
    """one baseline for all draws is wanted"""
    return values * scores**2 / (scores**2).mean()


def exponential_pathwise_gradient__sign(slope, rate, uniform):
    """the sign is turned round"""
    z = -torch.log(1 - uniform) / rate
    return slope(z) * z / rate


def exponential_pathwise_gradient__slope_only(slope, rate, uniform):
    """the chain rule also wants ∂z/∂r"""
    return slope(-torch.log(1 - uniform) / rate)


def exponential_pathwise_gradient__one_rate_missing(slope, rate, uniform):
    """∂z/∂r is −z/r, not −z"""
    z = -torch.log(1 - uniform) / rate
    return -slope(z) * z


def kl_to_wide_prior__averaged(mean, log_var, prior_variance):
    """independent dimensions add, so sum"""
    return 0.5 * ((log_var.exp() + mean**2) / prior_variance - 1 - log_var + math.log(prior_variance)).mean(1)


def kl_to_wide_prior__half_missing(mean, log_var, prior_variance):
    """a ½ is missing"""
    return ((log_var.exp() + mean**2) / prior_variance - 1 - log_var + math.log(prior_variance)).sum(1)


def kl_to_wide_prior__standard_prior(mean, log_var, prior_variance):
    """does not enter"""
    return 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(1)


def kl_to_wide_prior__no_log(mean, log_var, prior_variance):
    """log s² is missing"""
    return 0.5 * ((log_var.exp() + mean**2) / prior_variance - 1 - log_var).sum(1)


def kl_to_wide_prior__not_summed(mean, log_var, prior_variance):
    """sum over the L dimensions"""
    return 0.5 * ((log_var.exp() + mean**2) / prior_variance - 1 - log_var + math.log(prior_variance))


def calibrated_log_likelihood__own_variance(x, mean):
    """each example has its own variance"""
    error = (x - mean).square().flatten(1)
    variance = error.mean(1, keepdim=True)
    return -0.5 * (error / variance + torch.log(2 * math.pi * variance)).sum(1)


def calibrated_log_likelihood__summed_variance(x, mean):
    """so average over them"""
    error = (x - mean).square().flatten(1)
    variance = error.sum(1).mean()
    return -0.5 * (error / variance + torch.log(2 * math.pi * variance)).sum(1)


def calibrated_log_likelihood__half(x, mean):
    """let the batch choose"""
    error = (x - mean).square().flatten(1)
    return -(error + 0.5 * math.log(math.pi)).sum(1)


def calibrated_log_likelihood__averaged(x, mean):
    """log-densities of independent numbers add"""
    error = (x - mean).square().flatten(1)
    return -0.5 * (error / error.mean() + torch.log(2 * math.pi * error.mean())).mean(1)


def calibrated_log_likelihood__centred(x, mean):
    """the errors' own mean"""
    variance = (x - mean).var(correction=0)
    return (-0.5 * (torch.log(2 * math.pi * variance) + (x - mean) ** 2 / variance)).flatten(1).sum(1)


def calibrated_log_likelihood__no_constant(x, mean):
    """2π is missing"""
    variance = ((x - mean) ** 2).mean()
    return (-0.5 * (torch.log(variance) + (x - mean) ** 2 / variance)).flatten(1).sum(1)


def calibrated_log_likelihood__image_axes(x, mean):
    """not one for the batch"""
    variance = ((x - mean) ** 2).mean()
    return (-0.5 * (torch.log(2 * math.pi * variance) + (x - mean) ** 2 / variance)).sum((-1, -2))


def true_beta__upside_down(dimensions, latents, reconstruction, kl, weight=1.0):
    """upside down"""
    beta = dimensions if reconstruction == "mean" else 1
    return weight / (beta / latents if kl == "mean" else beta)


def true_beta__weight_forgotten(dimensions, latents, reconstruction, kl, weight=1.0):
    """the program's own weight"""
    beta = dimensions if reconstruction == "mean" else 1
    return float(beta / latents if kl == "mean" else beta)


def true_beta__means_cancel(dimensions, latents, reconstruction, kl, weight=1.0):
    """two means do not cancel"""
    if reconstruction == kl:
        return weight
    return weight * dimensions if reconstruction == "mean" else weight / latents
