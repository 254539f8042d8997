"""Hierarchies of latents: a chain up, a chain down, and the evidence lower bound level by level (chapter 05).

Level 0 is the data: a draw of all levels is a list z = [x, z_1, …, z_L]. Link l of a chain joins levels l and l + 1, for
l = 0 … L−1: `q[l]` gives q(z_{l+1} | z_l), upwards, and `p[l]` gives p(z_l | z_{l+1}), downwards. The top's prior is N(0, I).
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from minildm.families import mlp
from minildm.gaussian import Gaussian, add, affine

Link = Callable[[Tensor], Gaussian]


def climb(q: Sequence[Link], x: Tensor, noise: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Draw all levels from the inference chain, bottom up: [x, z_1, …, z_L].

    Args:
        q: L links upwards.
        x: data, N×….
        noise: ε for each link; by default drawn here.
    """
    z = [x]
    for level, link in enumerate(q):
        z.append(link(z[-1]).sample(None if noise is None else noise[level]))
    return z


def descend(p: Sequence[Link], top: Tensor, noise: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Draw all levels below `top`, top down: [z_0, …, z_{L-1}, top]. `noise` as for `climb`; p: L links downwards."""
    z = [top]
    for level in reversed(range(len(p))):
        z.insert(0, p[level](z[0]).sample(None if noise is None else noise[level]))
    return z


def log_joint(p: Sequence[Link], z: Sequence[Tensor]) -> Tensor:
    """log p(x, z_1, …, z_L) = log p(z_L) + Σ_l log p(z_l | z_{l+1}), Eq. (05.1), in nats, shape N."""
    _check(p, z)
    return _standard(z[-1]).log_prob(z[-1]) + sum(
        link(above).log_prob(below) for link, below, above in zip(p, z, z[1:], strict=False)
    )


def log_inference(q: Sequence[Link], z: Sequence[Tensor]) -> Tensor:
    """log q(z_1, …, z_L | x) = Σ_l log q(z_{l+1} | z_l), Eq. (05.2), in nats, shape N."""
    _check(q, z)
    return sum(link(below).log_prob(above) for link, below, above in zip(q, z, z[1:], strict=False))


def elbo_draw(p: Sequence[Link], q: Sequence[Link], z: Sequence[Tensor]) -> Tensor:
    """log p(x, z_1, …, z_L) − log q(z_1, …, z_L | x) at one draw, Eq. (05.3), shape N. Its mean over q is the ELBO."""
    return log_joint(p, z) - log_inference(q, z)


def upward_terms(p: Sequence[Link], q: Sequence[Link], z: Sequence[Tensor]) -> Tensor:
    """The ELBO at one draw of z from q, level by level, Eq. (05.4), N×(L+1): its sum over levels has the ELBO as its mean.

    Column 0, reconstruction: log p(x | z_1). Column l, consistency: log p(z_l | z_{l+1}) − log q(z_l | z_{l-1}). Column L,
    prior matching: −KL(q(z_L | z_{L-1}) ‖ N(0, I)), in closed form. With L = 1 this is the VAE of chapter 04.

    Args:
        p, q: L links down, L links up.
        z: from `climb(q, x)`.
    """
    _check(p, z)
    _check(q, z)
    inner = [
        below(z[level + 1]).log_prob(z[level]) - above(z[level - 1]).log_prob(z[level])
        for level, below, above in zip(range(1, len(p)), p[1:], q, strict=False)
    ]
    return torch.stack([p[0](z[1]).log_prob(z[0]), *inner, -q[-1](z[-2]).kl()], 1)


def backward_terms(p: Sequence[Link], top: Gaussian, links: Sequence[Link], z: Sequence[Tensor]) -> Tensor:
    """The ELBO at one draw of z from q, with q taken from the top down, Eq. (05.6), N×(L+1), as `upward_terms`.

    Column 0: log p(x | z_1). Column l: −KL(q(z_l | z_{l+1}, x) ‖ p(z_l | z_{l+1})). Column L: −KL(q(z_L | x) ‖ N(0, I)).

    Args:
        p: L links down.
        top: q(z_L | x), one for each example.
        links: q(z_l | z_{l+1}, x) for l = 1 … L−1, so L − 1 of them.
        z: a draw from q, by whatever route.

    Source: Ho et al. 2020 (arXiv:2006.11239), Eq. 5, there for diffusion.
    """
    _check(p, z)
    _check(links, z[1:])
    inner = [-link(above).kl(below(above)) for link, below, above in zip(links, p[1:], z[2:], strict=True)]
    return torch.stack([p[0](z[1]).log_prob(z[0]), *inner, -top.kl()], 1)


def _standard(like: Tensor) -> Gaussian:
    """N(0, I), one for each example of `like`."""
    return Gaussian(torch.zeros_like(like), torch.zeros_like(like))


def _check(links: Sequence[Link], z: Sequence[Tensor]) -> None:
    if len(z) != len(links) + 1:
        raise ValueError(f"{len(links)} links join {len(links) + 1} levels, not {len(z)}: give z = [x, z_1, …, z_L]")


@dataclasses.dataclass(frozen=True)
class Line:
    """A link z → N(w z + b, s²), each dimension by itself.

    Args:
        weight, bias: w and b, numbers or tensors that broadcast to z.
        log_var: log s², likewise.
    """

    weight: Tensor | float
    bias: Tensor | float
    log_var: Tensor | float

    def __call__(self, z: Tensor) -> Gaussian:
        return Gaussian(self.weight * z + self.bias, torch.zeros_like(z) + self.log_var)


def turn(start: Gaussian, link: Line) -> Line:
    """Bayes' rule for one link, Eq. (05.5): from p(a) and p(b | a) the link p(a | b), itself a line.

    1/v = 1/v₀ + w²/s², slope v w/s², intercept v m₀/v₀ − slope · c.

    Args:
        start: p(a) = N(m₀, v₀).
        link: p(b | a) = N(w a + c, s²).
    """
    given = vars(link).values()  # w, c and log s²
    weight, bias, log_var = (torch.as_tensor(each, dtype=start.mean.dtype, device=start.mean.device) for each in given)
    turned = -torch.logaddexp(-start.log_var, torch.log(weight**2) - log_var)
    slope = torch.exp(turned - log_var) * weight
    return Line(slope, torch.exp(turned - start.log_var) * start.mean - slope * bias, turned)


def level_marginals(start: Gaussian, links: Sequence[Line]) -> list[Gaussian]:
    """The distribution at every level, from the start along the links: m ← w m + b, v ← w² v + s², Eq. (05.7).

    Returns: one Gaussian more than there are links, the first of them `start`. From N(0, I) down the generative chain the last
    is p(x); from q(z_1 | x) up the inference chain they are q(z_l | x).
    """
    found = [start]
    for link in links:
        found.append(add(affine(found[-1], link.weight, link.bias), Line(0.0, 0.0, link.log_var)(start.mean)))
    return found


def turn_chain(start: Gaussian, links: Sequence[Line]) -> list[Line]:
    """Every link of a chain turned about: link i of the result leads from where link i ends to where it starts."""
    return [turn(place, link) for place, link in zip(level_marginals(start, links), links, strict=False)]


def exact_posterior(p: Sequence[Line], like: Tensor) -> list[Line]:
    """The inference chain p(z_{l+1} | z_l) that belongs to a generative chain of lines: the q that makes the bound tight."""
    return turn_chain(_standard(like), p[::-1])[::-1]


def given_data(q: Sequence[Line], x: Tensor) -> tuple[Gaussian, list[Line]]:
    """The inference chain from the top down: q(z_L | x), and q(z_l | z_{l+1}, x) for l = 1 … L−1, for `backward_terms`."""
    first = q[0](x)
    return level_marginals(first, q[1:])[-1], turn_chain(first, q[1:])


def log_evidence(p: Sequence[Line], x: Tensor) -> Tensor:
    """log p(x) of a generative chain of lines, exactly, in nats, shape N."""
    return level_marginals(_standard(x), p[::-1])[-1].log_prob(x)


def expected_upward(p: Sequence[Line], q: Sequence[Line], x: Tensor) -> Tensor:
    """The mean of `upward_terms` over q, exactly, for chains of lines, Eq. (05.8): N×(L+1), by 2^L evaluations.

    Each term is quadratic in the noises, and the mean of a quadratic knows only E[ε] = 0, E[ε²] = 1 and E[ε ε′] = 0. Noises of
    ±1 in all combinations have the same three.
    """
    signs = itertools.product((-1.0, 1.0), repeat=len(q))
    draws = [climb(q, x, [torch.full_like(x, sign) for sign in each]) for each in signs]
    return torch.stack([upward_terms(p, q, z) for z in draws]).mean(0)


def expected_backward(p: Sequence[Line], q: Sequence[Line], x: Tensor) -> Tensor:
    """The mean of `backward_terms` over q, exactly, for chains of lines, also Eq. (05.8): N×(L+1).

    Each term hangs on one level only, so two evaluations do for all: every level at its mean ± its standard deviation.
    """
    top, links = given_data(q, x)
    marginals = level_marginals(q[0](x), q[1:])
    draws = [[x, *(place.sample(torch.full_like(x, sign)) for place in marginals)] for sign in (-1.0, 1.0)]
    return torch.stack([backward_terms(p, top, links, z) for z in draws]).mean(0)


def noising(betas: Sequence[float] | Tensor) -> list[Line]:
    """The inference chain of diffusion, Eq. (05.9): q(z_l | z_{l-1}) = N(√(1 − β_l) z_{l-1}, β_l). Nothing in it is learned.

    Args:
        betas: β_1 … β_L. Raises ValueError for one outside (0, 1).

    Source: Ho et al. 2020 (arXiv:2006.11239), Eq. 2.
    """
    betas = torch.as_tensor(betas, dtype=torch.float64)
    if not ((betas > 0) & (betas < 1)).all():
        raise ValueError(f"every β must lie in (0, 1), but they span {betas.min():.3g} to {betas.max():.3g}")
    return [Line(torch.sqrt(1 - beta).item(), 0, torch.log(beta).item()) for beta in betas]


class GaussianMLP(nn.Module):
    """A link that learns: a network with two hidden layers gives the mean and the log-variance.

    Args:
        inputs, width, outputs: how many numbers come in, a hidden layer has, and the Gaussian has.
        skip: the share of z that is added to the mean. Raises ValueError if it is not 0 and the levels differ in size.
        log_var: bias of the log-variance at the start.
    """

    def __init__(self, inputs: int, outputs: int, width: int, *, skip: float = 0.0, log_var: float = 0.0) -> None:
        super().__init__()
        if skip and inputs != outputs:
            raise ValueError(f"skip={skip} needs levels of equal size, not {inputs} and {outputs}: set it to 0")
        self.skip, self.network = skip, mlp(inputs, width, 2 * outputs)
        nn.init.constant_(self.network[-1].bias[outputs:], log_var)

    def forward(self, z: Tensor) -> Gaussian:
        mean, log_var = self.network(z).chunk(2, 1)
        return Gaussian(mean + self.skip * z if self.skip else mean, log_var)


def maximise(bound: Callable[[Tensor], Tensor], module: nn.Module, draw: Callable[[int], Tensor], steps: int) -> Tensor:
    """`steps` steps of Adam up the mean of bound(x) over 256 new examples; the rate falls from 0.005 to 0 along a line.

    Args:
        bound: data, N×D, to the ELBO of each, N.
        module: whose parameters are trained.
        draw: count → data, N×D.

    Returns: the mean bound at every step, in nats, shape `steps`.
    """
    optimiser, values = torch.optim.Adam(module.parameters()), []
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.005 * (1 - step / steps)
        value = bound(draw(256)).mean()
        optimiser.zero_grad()
        (-value).backward()
        optimiser.step()
        values.append(value.detach())
    return torch.stack(values)
