"""Plausible mistakes in chapter 02's exercises; each docstring is what the check should say."""

import math

import torch
from torch import Tensor


def discriminator_for_shares__equal_shares(log_p_data: Tensor, log_p_model: Tensor, share: float) -> Tensor:
    """that is D* for equal shares"""
    return torch.sigmoid(log_p_data - log_p_model)


def discriminator_for_shares__exchanged(log_p_data: Tensor, log_p_model: Tensor, share: float) -> Tensor:
    """the shares are exchanged"""
    return torch.sigmoid(log_p_data - log_p_model + math.log((1 - share) / share))


def discriminator_for_shares__generated(log_p_data: Tensor, log_p_model: Tensor, share: float) -> Tensor:
    """that is the probability of being generated"""
    return torch.sigmoid(log_p_model - log_p_data + math.log((1 - share) / share))


def discriminator_for_shares__logit(log_p_data: Tensor, log_p_model: Tensor, share: float) -> Tensor:
    """that is the logit of D*"""
    return log_p_data - log_p_model + math.log(share / (1 - share))


def discriminator_for_shares__times_share(log_p_data: Tensor, log_p_model: Tensor, share: float) -> Tensor:
    """D*'s denominator changes too"""
    return share * torch.sigmoid(log_p_data - log_p_model)


def discriminator_for_shares__half_of_the_prior(log_p_data: Tensor, log_p_model: Tensor, share: float) -> Tensor:
    """the generated points have a share as well"""
    return torch.sigmoid(log_p_data - log_p_model + math.log(share))


def discriminator_for_shares__zero_over_zero(log_p_data: Tensor, log_p_model: Tensor, share: float) -> Tensor:
    """stay in the logarithms"""
    p, q = share * log_p_data.exp(), (1 - share) * log_p_model.exp()
    return p / (p + q)


def discriminator_for_shares__nudged(log_p_data: Tensor, log_p_model: Tensor, share: float) -> Tensor:
    """at log-densities down to −5000"""
    p, q = share * log_p_data.exp(), (1 - share) * log_p_model.exp()
    return p / (p + q + 1e-12)


def _total_variation(log_p: Tensor, log_q: Tensor, cell: float) -> Tensor:
    return 0.5 * cell * (log_p.exp() - log_q.exp()).abs().sum()


def hinge_value__jensen_shannon(log_p_data: Tensor, log_p_model: Tensor, cell: float) -> Tensor:
    """the value of the logarithmic game"""
    log_m = torch.logaddexp(log_p_data, log_p_model) - math.log(2)
    kls = log_p_data.exp() * (log_p_data - log_m) + log_p_model.exp() * (log_p_model - log_m)
    return cell * kls.sum() - math.log(4)


def hinge_value__total_variation(log_p_data: Tensor, log_p_model: Tensor, cell: float) -> Tensor:
    """that is the total variation"""
    return _total_variation(log_p_data, log_p_model, cell)


def hinge_value__no_constant(log_p_data: Tensor, log_p_model: Tensor, cell: float) -> Tensor:
    """the constant is missing"""
    return 2 * _total_variation(log_p_data, log_p_model, cell)


def hinge_value__as_a_loss(log_p_data: Tensor, log_p_model: Tensor, cell: float) -> Tensor:
    """the sign"""
    return 2 - 2 * _total_variation(log_p_data, log_p_model, cell)


def hinge_value__one_each(log_p_data: Tensor, log_p_model: Tensor, cell: float) -> Tensor:
    """one hinge is 0 and the other is −2"""
    return -cell * torch.minimum(log_p_data, log_p_model).exp().sum()


def hinge_value__no_cell(log_p_data: Tensor, log_p_model: Tensor, cell: float) -> Tensor:
    """multiply the sum by the size of a cell"""
    return -2 * torch.minimum(log_p_data, log_p_model).exp().sum()


def hinge_value__undecided(log_p_data: Tensor, log_p_model: Tensor, cell: float) -> Tensor:
    """that is V at D = 0"""
    return -cell * (log_p_data.exp() + log_p_model.exp()).sum()


def hinge_value__a_probability(log_p_data: Tensor, log_p_model: Tensor, cell: float) -> Tensor:
    """belongs to another game"""
    d = torch.sigmoid(log_p_data - log_p_model)
    return cell * (log_p_data.exp() * (d - 1) + log_p_model.exp() * (-1 - d)).sum()


def _normal(z: Tensor) -> Tensor:
    return -0.5 * (math.log(2 * math.pi) + z**2)


def folded_log_prob__one_preimage(x: Tensor, c: float) -> Tensor:
    """one preimage is forgotten"""
    return _normal(c + x.sqrt()) - torch.log(2 * x.sqrt())


def folded_log_prob__no_jacobian(x: Tensor, c: float) -> Tensor:
    """the Jacobian is missing"""
    return torch.logaddexp(_normal(c + x.sqrt()), _normal(c - x.sqrt()))


def folded_log_prob__turned_over(x: Tensor, c: float) -> Tensor:
    """the Jacobian is turned over"""
    return torch.logaddexp(_normal(c + x.sqrt()), _normal(c - x.sqrt())) + torch.log(2 * x.sqrt())


def folded_log_prob__averaged(x: Tensor, c: float) -> Tensor:
    """they are not averaged"""
    return torch.logaddexp(_normal(c + x.sqrt()), _normal(c - x.sqrt())) - math.log(2) - torch.log(2 * x.sqrt())


def folded_log_prob__logarithms_added(x: Tensor, c: float) -> Tensor:
    """probabilities add, not their logarithms"""
    return _normal(c + x.sqrt()) + _normal(c - x.sqrt()) - torch.log(2 * x.sqrt())


def folded_log_prob__wrong_place(x: Tensor, c: float) -> Tensor:
    """the Jacobian is taken at the wrong place"""
    return torch.logaddexp(_normal(c + x.sqrt()), _normal(c - x.sqrt())) - torch.log(2 * x)


def folded_log_prob__density(x: Tensor, c: float) -> Tensor:
    """that is the density"""
    return (_normal(c + x.sqrt()).exp() + _normal(c - x.sqrt()).exp()) / (2 * x.sqrt())


def folded_log_prob__log_of_zero(x: Tensor, c: float) -> Tensor:
    """use logsumexp"""
    return torch.log((_normal(c + x.sqrt()).exp() + _normal(c - x.sqrt()).exp()) / (2 * x.sqrt()))


def _solved(x: Tensor, lower: Tensor, shift: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(lower, (x - shift).T, upper=False).T


def triangular_log_prob__no_determinant(x: Tensor, lower: Tensor, shift: Tensor) -> Tensor:
    """the log-determinant is missing"""
    return _normal(_solved(x, lower, shift)).sum(1)


def triangular_log_prob__sign(x: Tensor, lower: Tensor, shift: Tensor) -> Tensor:
    """the log-determinant's sign"""
    return _normal(_solved(x, lower, shift)).sum(1) + lower.diagonal().abs().log().sum()


def triangular_log_prob__determinant_twice(x: Tensor, lower: Tensor, shift: Tensor) -> Tensor:
    """counted twice"""
    return _normal(_solved(x, lower, shift)).sum(1) - (lower @ lower.T).logdet()


def triangular_log_prob__forwards(x: Tensor, lower: Tensor, shift: Tensor) -> Tensor:
    """L was applied to x"""
    return _normal((x - shift) @ lower.T).sum(1) - lower.diagonal().abs().log().sum()


def triangular_log_prob__turned_round(x: Tensor, lower: Tensor, shift: Tensor) -> Tensor:
    """the map is turned round"""
    return _normal((x - shift) @ lower.T).sum(1) + lower.diagonal().abs().log().sum()


def triangular_log_prob__log_of_a_negative(x: Tensor, lower: Tensor, shift: Tensor) -> Tensor:
    """the diagonal may be negative"""
    return _normal(_solved(x, lower, shift)).sum(1) - lower.diagonal().log().sum()


def triangular_log_prob__transposed(x: Tensor, lower: Tensor, shift: Tensor) -> Tensor:
    """that solves with Lᵀ"""
    return _normal((x - shift) @ torch.linalg.inv(lower)).sum(1) - lower.diagonal().abs().log().sum()


def planar__tanh_for_its_derivative(x: Tensor, w: Tensor, u: Tensor, b: float) -> tuple[Tensor, Tensor]:
    """the derivative of tanh is 1 − tanh², not tanh"""
    bent = torch.tanh(x @ w + b)
    return x + bent[:, None] * u, torch.log((1 + bent * (w @ u)).abs())


def planar__no_derivative(x: Tensor, w: Tensor, u: Tensor, b: float) -> tuple[Tensor, Tensor]:
    """the derivative of tanh is missing"""
    bent = torch.tanh(x @ w + b)
    return x + bent[:, None] * u, torch.log((1 + w @ u).abs()).expand(len(x))


def planar__diagonal_alone(x: Tensor, w: Tensor, u: Tensor, b: float) -> tuple[Tensor, Tensor]:
    """this Jacobian is not triangular"""
    bent = torch.tanh(x @ w + b)
    return x + bent[:, None] * u, torch.log((1 + (1 - bent**2)[:, None] * w * u).abs()).sum(1)


def planar__no_identity(x: Tensor, w: Tensor, u: Tensor, b: float) -> tuple[Tensor, Tensor]:
    """the identity is missing"""
    bent = torch.tanh(x @ w + b)
    return x + bent[:, None] * u, torch.log(((1 - bent**2) * (w @ u)).abs())


def planar__determinant(x: Tensor, w: Tensor, u: Tensor, b: float) -> tuple[Tensor, Tensor]:
    """that is the determinant"""
    bent = torch.tanh(x @ w + b)
    return x + bent[:, None] * u, (1 + (1 - bent**2) * (w @ u)).abs()


def planar__log_of_a_negative(x: Tensor, w: Tensor, u: Tensor, b: float) -> tuple[Tensor, Tensor]:
    """where the determinant is negative"""
    bent = torch.tanh(x @ w + b)
    return x + bent[:, None] * u, torch.log(1 + (1 - bent**2) * (w @ u))


def planar__by_coordinate(x: Tensor, w: Tensor, u: Tensor, b: float) -> tuple[Tensor, Tensor]:
    """w·x is a dot product"""
    bent = torch.tanh(x * w + b)
    return x + bent * u, torch.log((1 + (1 - bent**2) * w * u).abs()).sum(1)


def planar__move_alone(x: Tensor, w: Tensor, u: Tensor, b: float) -> tuple[Tensor, Tensor]:
    """x itself is missing"""
    bent = torch.tanh(x @ w + b)
    return bent[:, None] * u, torch.log((1 + (1 - bent**2) * (w @ u)).abs())
