"""Plausible mistakes in chapter 12's exercises; each docstring is what the check should say."""

import math

import torch
from torch import Tensor


def _a(alpha_bar: Tensor) -> Tensor:
    return alpha_bar.sqrt()[:, None]


def _sigma(alpha_bar: Tensor) -> Tensor:
    return (1 - alpha_bar).sqrt()[:, None]


def push_velocity__sign(v, class_slope, alpha_bar, w):
    """the sign: v falls"""
    return v + w * _sigma(alpha_bar) / _a(alpha_bar) * class_slope


def push_velocity__as_noise(v, class_slope, alpha_bar, w):
    """that is ε's push"""
    return v - w * _sigma(alpha_bar) * class_slope


def push_velocity__as_picture(v, class_slope, alpha_bar, w):
    """that is x_0's push"""
    return v + w * _sigma(alpha_bar) ** 2 / _a(alpha_bar) * class_slope


def push_velocity__half(v, class_slope, alpha_bar, w):
    """x_0 was left as it was"""
    return v - w * _a(alpha_bar) * _sigma(alpha_bar) * class_slope


def push_velocity__other_half(v, class_slope, alpha_bar, w):
    """ε was left as it was"""
    return v - w * _sigma(alpha_bar) ** 3 / _a(alpha_bar) * class_slope


def push_velocity__difference(v, class_slope, alpha_bar, w):
    """the two parts add"""
    a, s = _a(alpha_bar), _sigma(alpha_bar)
    return v - w * (a * s - s**3 / a) * class_slope


def push_velocity__squares(v, class_slope, alpha_bar, w):
    """σ²/a² where σ/a is right"""
    return v - w * ((1 - alpha_bar) / alpha_bar)[:, None] * class_slope


def push_velocity__upside_down(v, class_slope, alpha_bar, w):
    """upside down"""
    return v - w * _a(alpha_bar) / _sigma(alpha_bar) * class_slope


def push_velocity__no_w(v, class_slope, alpha_bar, w):
    """w was left out"""
    return v - _sigma(alpha_bar) / _a(alpha_bar) * class_slope


def two_conditions__from_null(eps_null, eps_image, eps_both, w_image, w_text):
    """the text's difference is taken from ∅"""
    return eps_null + w_image * (eps_image - eps_null) + w_text * (eps_both - eps_null)


def two_conditions__exchanged(eps_null, eps_image, eps_both, w_image, w_text):
    """the two knobs are exchanged"""
    return eps_null + w_text * (eps_image - eps_null) + w_image * (eps_both - eps_image)


def two_conditions__begins_late(eps_null, eps_image, eps_both, w_image, w_text):
    """begin at ∅"""
    return eps_image + w_image * (eps_image - eps_null) + w_text * (eps_both - eps_image)


def two_conditions__begins_at_both(eps_null, eps_image, eps_both, w_image, w_text):
    """begin at ∅"""
    return eps_both + w_image * (eps_image - eps_null) + w_text * (eps_both - eps_image)


def two_conditions__text_only(eps_null, eps_image, eps_both, w_image, w_text):
    """the picture's knob is not used"""
    return eps_null + w_text * (eps_both - eps_null)


def two_conditions__nested(eps_null, eps_image, eps_both, w_image, w_text):
    """the knobs are multiplied"""
    return eps_null + w_image * (eps_image + w_text * (eps_both - eps_image) - eps_null)


def two_conditions__away(eps_null, eps_image, eps_both, w_image, w_text):
    """the signs"""
    return eps_null - w_image * (eps_image - eps_null) - w_text * (eps_both - eps_image)


def two_conditions__one_after_the_other(eps_null, eps_image, eps_both, w_image, w_text):
    """one guidance after the other"""
    first = eps_null + w_image * (eps_image - eps_null)
    return first + w_text * (eps_both - first)


def _interval(inside_of, outside="cond", ask_always=False, start="null"):
    """Build a wrong `in_interval` from when it guides and what it does otherwise."""

    def answer(denoise_cond, denoise_null, w, first, last):
        def denoise(x_t, t):
            inside, cond = inside_of(t, first, last), denoise_cond(x_t, t)
            if not inside.any() and not ask_always and outside == "cond":
                return cond
            null = denoise_null(x_t, t)
            guided = (null if start == "null" else cond) + w * (cond - null)
            other = cond if outside == "cond" else null
            return torch.where(inside.view(-1, *[1] * (x_t.ndim - 1)), guided, other)

        return denoise

    return answer


def _middle(t, first, last):
    return (t >= last) & (t <= first)


def in_interval__always(denoise_cond, denoise_null, w, first, last):
    """guided at all times"""
    return _interval(lambda t, first, last: t == t)(denoise_cond, denoise_null, w, first, last)


def in_interval__unconditional_outside(denoise_cond, denoise_null, w, first, last):
    """outside the interval it is unconditional"""
    return _interval(_middle, outside="null")(denoise_cond, denoise_null, w, first, last)


def in_interval__outside_in(denoise_cond, denoise_null, w, first, last):
    """guided outside the interval, and not inside"""
    return _interval(lambda t, first, last: ~_middle(t, first, last))(denoise_cond, denoise_null, w, first, last)


def in_interval__open_ends(denoise_cond, denoise_null, w, first, last):
    """both ends of the interval are guided, too"""
    return _interval(lambda t, first, last: (t > last) & (t < first))(denoise_cond, denoise_null, w, first, last)


def in_interval__no_end(denoise_cond, denoise_null, w, first, last):
    """below `last` it is still guided"""
    return _interval(lambda t, first, last: t <= first)(denoise_cond, denoise_null, w, first, last)


def in_interval__one_off(denoise_cond, denoise_null, w, first, last):
    """begin at ∅"""
    return _interval(_middle, start="cond")(denoise_cond, denoise_null, w, first, last)


def in_interval__one_for_all(denoise_cond, denoise_null, w, first, last):
    """the times of a batch may differ"""
    return _interval(lambda t, first, last: _middle(t[3], first, last).expand(len(t)))(denoise_cond, denoise_null, w, first, last)


def in_interval__asks_always(denoise_cond, denoise_null, w, first, last):
    """nobody needs denoise_null"""
    return _interval(_middle, ask_always=True)(denoise_cond, denoise_null, w, first, last)


def in_interval__in_parts(denoise_cond, denoise_null, w, first, last):
    """ask denoise_cond about the whole batch"""

    def denoise(x_t, t):
        inside, x0 = _middle(t, first, last), torch.empty_like(x_t)
        x0[~inside] = denoise_cond(x_t[~inside], t[~inside])
        if inside.any():
            cond, null = denoise_cond(x_t[inside], t[inside]), denoise_null(x_t[inside], t[inside])
            x0[inside] = null + w * (cond - null)
        return x0

    return denoise


def in_interval__no_function(denoise_cond, denoise_null, w, first, last):
    """a function (x_t, t) → x̂_0 is wanted"""
    return torch.zeros(1)


def _ratio(guided: Tensor, cond: Tensor, dims=(1, 2, 3)) -> Tensor:
    return cond.std(dims, keepdim=True) / guided.std(dims, keepdim=True)


def rescaled__whole_way(guided, cond, phi):
    """φ was left out"""
    return _ratio(guided, cond) * guided


def rescaled__exchanged(guided, cond, phi):
    """φ and 1 − φ are exchanged"""
    return (1 - phi) * _ratio(guided, cond) * guided + phi * guided


def rescaled__upside_down(guided, cond, phi):
    """upside down"""
    return phi * guided / _ratio(guided, cond) + (1 - phi) * guided


def rescaled__variance(guided, cond, phi):
    """a ratio of variances"""
    return phi * _ratio(guided, cond) ** 2 * guided + (1 - phi) * guided


def rescaled__batch(guided, cond, phi):
    """one deviation for the whole batch"""
    return phi * cond.std() / guided.std() * guided + (1 - phi) * guided


def rescaled__channels(guided, cond, phi):
    """one deviation for each channel"""
    return phi * _ratio(guided, cond, (2, 3)) * guided + (1 - phi) * guided


def rescaled__lengths(guided, cond, phi):
    """a ratio of lengths"""
    lengths = (cond.flatten(1).norm(dim=1) / guided.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    return phi * lengths * guided + (1 - phi) * guided


def rescaled__other_part(guided, cond, phi):
    """the other part is the guided prediction"""
    return phi * _ratio(guided, cond) * guided + (1 - phi) * cond


def rescaled__mean_kept(guided, cond, phi):
    """the mean is multiplied, too"""
    mean = guided.mean((1, 2, 3), keepdim=True)
    return phi * (mean + _ratio(guided, cond) * (guided - mean)) + (1 - phi) * guided


def _inside(var_cond: float, var_null: float, low: float, high: float) -> float:
    at_high = 1.0 if math.isinf(high) else (var_cond + high) / (var_null + high)
    return (var_cond + low) / (var_null + low) / at_high


def interval_end__all_the_way(var_cond, var_null, w, low, high):
    """guided all the way"""
    return var_cond**w * var_null ** (1 - w)


def interval_end__w(var_cond, var_null, w, low, high):
    """w − 1 and not w"""
    return var_cond * _inside(var_cond, var_null, low**2, high**2) ** w


def interval_end__unconditional_outside(var_cond, var_null, w, low, high):
    """outside the interval it is unconditional; conditional is wanted"""
    return var_null * _inside(var_cond, var_null, low**2, high**2) ** w


def interval_end__levels(var_cond, var_null, w, low, high):
    """r is a deviation"""
    return var_cond * _inside(var_cond, var_null, low, high) ** (w - 1)


def interval_end__upside_down(var_cond, var_null, w, low, high):
    """upside down"""
    return var_cond * _inside(var_cond, var_null, low**2, high**2) ** (1 - w)


def interval_end__deviation(var_cond, var_null, w, low, high):
    """that is the deviation"""
    return (var_cond * _inside(var_cond, var_null, low**2, high**2) ** (w - 1)) ** 0.5


def interval_end__half(var_cond, var_null, w, low, high):
    """a factor 2"""
    return var_cond * _inside(var_cond, var_null, low**2, high**2) ** ((w - 1) / 2)


def interval_end__no_high(var_cond, var_null, w, low, high):
    """`high` is not used"""
    return var_cond * _inside(var_cond, var_null, low**2, math.inf) ** (w - 1)


def interval_end__nan(var_cond, var_null, w, low, high):
    """`high` may be infinite"""
    inside = (var_cond + low**2) / (var_null + low**2) * (var_null + high**2) / (var_cond + high**2)
    return var_cond * inside ** (w - 1)
