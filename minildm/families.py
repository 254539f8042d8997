"""A ring of Gaussians, about which all is known, and two families of models that learn it: GAN and flow (chapter 02)."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minildm.gaussian import Gaussian, sum_per_example

Draw = Callable[[int], Tensor]  # count → data, N×D
Loss, Rates = Callable[[Tensor], Tensor], tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Ring:
    """K equal Gaussians on a circle in the plane: many separate modes, and nothing about them unknown.

    Args:
        modes: K.
        radius: of the circle. With 1.4 each coordinate has a variance of about 1.
        std: s, the standard deviation of each Gaussian in each direction.
    """

    modes: int = 8
    radius: float = 1.4
    std: float = 0.12

    def __post_init__(self) -> None:
        if self.modes < 1 or self.radius <= 0 or self.std <= 0:
            raise ValueError(f"modes, radius and std must be positive, not {self.modes}, {self.radius} and {self.std}")

    @property
    def centres(self) -> Tensor:
        """c_1 … c_K, float64, K×2, counterclockwise; the first lies on the positive x-axis."""
        angle = 2 * math.pi * torch.arange(self.modes, dtype=torch.float64) / self.modes
        return self.radius * torch.stack([angle.cos(), angle.sin()], 1)

    def sample(self, count: int) -> Tensor:
        """Draw points, float32, N×2: first a mode, each as likely, then a point in it."""
        which = torch.randint(self.modes, (count,))
        return self.centres.float()[which] + self.std * torch.randn(count, 2)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) = log (1/K) Σ_k N(x; c_k, s²I), Eq. (02.1), for x of shape N×2: shape N."""
        apart = (x[:, None] - self.centres.to(x)).flatten(0, 1)  # NK×2
        components = Gaussian(torch.zeros_like(apart), torch.full_like(apart, 2 * math.log(self.std)))
        return torch.logsumexp(components.log_prob(apart).unflatten(0, (-1, self.modes)), 1) - math.log(self.modes)

    def entropy(self) -> float:
        """H(p) = log K + log 2πe s², Eq. (02.2), in nats: which mode, and where in it. Exact where modes do not overlap."""
        return math.log(self.modes) + math.log(2 * math.pi * math.e * self.std**2)


def mode_shares(x: Tensor, ring: Ring, within: float = 3.0) -> Tensor:
    """The share of the points N×2 that lies within `within` standard deviations of each mode's centre: float64, K.

    They sum to the share near any mode: 1 − exp(−within²/2) for the data themselves, 98.9% for 3.
    """
    return (torch.cdist(x.double(), ring.centres) <= within * ring.std).double().mean(0)


def modes_covered(shares: Tensor, least: float = 0.1) -> int:
    """How many of K modes get at least a tenth of their due, which is 1/K of all points."""
    return int((shares >= least / len(shares)).sum())


def mlp(inputs: int, width: int, outputs: int, hidden: int = 2, between: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    """Linear layers, `hidden` of them of one width, with a nonlinearity between them."""
    inner = [layer for _ in range(hidden - 1) for layer in (nn.Linear(width, width), between())]
    return nn.Sequential(nn.Linear(inputs, width), between(), *inner, nn.Linear(width, outputs))


def gan_value(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """V(D, G) = E_data[log D(x)] + E_G[log(1 − D(x))], Eq. (02.3), a single number: D climbs it, G descends it.

    Args: the logits log D/(1 − D) at data and at generated points; D itself would round to 1, and log(1 − D) be −∞.

    Source: Goodfellow et al. 2014 (arXiv:1406.2661), Eq. 1.
    """
    return F.logsigmoid(real_logits).mean() + F.logsigmoid(-fake_logits).mean()


def optimal_discriminator(log_p_data: Tensor, log_p_model: Tensor) -> Tensor:
    """D*(x) = p_data(x)/(p_data(x) + p_G(x)), Eq. (02.4), from the two log-densities, shaped like them.

    Source: Goodfellow et al. 2014 (arXiv:1406.2661), Proposition 1.
    """
    return torch.sigmoid(log_p_data - log_p_model)


def jensen_shannon(log_p: Tensor, log_q: Tensor, cell: float) -> Tensor:
    """JS(p, q) = ½ KL(p ‖ m) + ½ KL(q ‖ m) with m = ½(p + q), Eq. (02.5), in nats: a sum over the cells of a grid.

    Args: the log-densities at the cells' centres, any shape, and a cell's length, area or volume.

    Source: Lin 1991, IEEE Transactions on Information Theory 37:145.
    """
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * cell * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum()


def value_at_optimum(divergence: Tensor) -> Tensor:
    """V(D*, G) = 2 JS(p_data, p_G) − log 4, Eq. (02.6), from the divergence in nats.

    Source: Goodfellow et al. 2014 (arXiv:1406.2661), Eq. 6.
    """
    return 2 * divergence - math.log(4)


def saturating_loss(fake_logits: Tensor) -> Tensor:
    """E_G[log(1 − D(x))], Eq. (02.7): the generator's own part of V. Its slope in the logit is −D: nothing once D is sure."""
    return F.logsigmoid(-fake_logits).mean()


def non_saturating_loss(fake_logits: Tensor) -> Tensor:
    """−E_G[log D(x)], Eq. (02.8): downhill is the same way, but the slope is −(1 − D), largest where D is sure.

    Source: Goodfellow et al. 2014 (arXiv:1406.2661), section 3.
    """
    return -F.logsigmoid(fake_logits).mean()


class GAN(nn.Module):
    """A generator z → x and a discriminator x → logit, both of one `width`, for points in the plane; z has `latent` numbers."""

    def __init__(self, latent: int = 2, width: int = 128) -> None:
        super().__init__()
        self.latent = latent
        self.generator = mlp(latent, width, 2, hidden=3, between=nn.ReLU)
        self.discriminator = mlp(2, width, 1, hidden=3, between=nn.ReLU)

    def sample(self, count: int) -> Tensor:
        """Points N×2: noise z ~ N(0, I), and one pass through the generator."""
        return self.generator(torch.randn(count, self.latent))


def train_gan(
    gan: GAN, draw: Draw, steps: int, *, batch: int = 256, loss: Loss = non_saturating_loss, rates: Rates = (1e-3, 1e-3)
) -> Tensor:
    """A step of the discriminator up V, then one of the generator down its loss, `steps` times. Returns V before each.

    Args:
        loss: the generator's, of the logits at generated points.
        rates: learning rates of generator and discriminator; both fall to 0 along a straight line.
    """
    parts = (gan.generator, gan.discriminator)
    optimisers = [torch.optim.Adam(part.parameters(), rate, (0.5, 0.99)) for part, rate in zip(parts, rates, strict=True)]
    values = []
    for step in range(steps):
        for optimiser, rate in zip(optimisers, rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate * (1 - step / steps)
        value = gan_value(gan.discriminator(draw(batch)), gan.discriminator(gan.sample(batch).detach()))
        optimisers[1].zero_grad()
        (-value).backward()
        optimisers[1].step()
        optimisers[0].zero_grad()
        loss(gan.discriminator(gan.sample(batch))).backward()
        optimisers[0].step()
        values.append(value.detach())
    return torch.stack(values)


class Coupling(nn.Module):
    """An affine coupling layer: the coordinates that the mask keeps decide how the others are scaled and shifted.

    Args: D zeros and ones, of which ones pass through unchanged, and the width of the network for log-scale and shift.
    """

    def __init__(self, mask: Sequence[int], width: int = 64) -> None:
        super().__init__()
        if set(mask) != {0, 1}:
            raise ValueError(f"a mask needs zeros and ones, both and nothing else, not {list(mask)}")
        self.register_buffer("mask", torch.tensor(mask, dtype=torch.get_default_dtype()))
        self.network = mlp(len(mask), width, 2 * len(mask), between=nn.ReLU)

    def _log_scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """s and t, N×D each, 0 where the mask keeps. With 2 tanh no single layer scales by more than e², so none runs away."""
        log_scale, shift = self.network(self.mask * x).chunk(2, 1)
        return (1 - self.mask) * 2 * torch.tanh(log_scale), (1 - self.mask) * shift

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y = x e^s + t with s and t from the kept coordinates, Eq. (02.10), and log |det ∂y/∂x| = Σ s, Eq. (02.11).

        Returns: y, N×D, and the log-determinant, N.

        Source: Dinh et al. 2017 (arXiv:1605.08803), Eqs. 4 to 6.
        """
        log_scale, shift = self._log_scale_and_shift(x)
        return x * torch.exp(log_scale) + shift, sum_per_example(log_scale)

    def inverse(self, y: Tensor) -> Tensor:
        """x = (y − t) e^{−s}, Eq. (02.12), N×D: y's kept coordinates are those of x, so s and t can be computed from y.

        Source: Dinh et al. 2017 (arXiv:1605.08803), Eq. 8.
        """
        log_scale, shift = self._log_scale_and_shift(y)
        return (y - shift) * torch.exp(-log_scale)


class Flow(nn.Module):
    """Coupling layers in a row, from data x to noise z ~ N(0, I), and back.

    Args: a mask for each layer, neighbours keeping different coordinates (what no layer moves stays as it is), and a width.
    """

    def __init__(self, masks: Sequence[Sequence[int]] = ((1, 0), (0, 1)) * 4, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Coupling(mask, width) for mask in masks)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z, N×D, and log |det ∂z/∂x|, N: determinants of maps in a row multiply, so their logarithms add."""
        log_dets = []
        for layer in self.layers:
            x, log_det = layer(x)
            log_dets.append(log_det)
        return x, torch.stack(log_dets).sum(0)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) = log N(f(x); 0, I) + log |det ∂f/∂x|, Eq. (02.9), in nats, exact: N×D → N.

        Source: Dinh et al. 2017 (arXiv:1605.08803), Eq. 3.
        """
        z, log_det = self(x)
        return Gaussian(torch.zeros_like(z), torch.zeros_like(z)).log_prob(z) + log_det

    def inverse(self, z: Tensor) -> Tensor:
        """z → x: the layers' inverses, the last layer's first."""
        for layer in reversed(self.layers):
            z = layer.inverse(z)
        return z

    def sample(self, count: int) -> Tensor:
        """Points N×D: noise, and one pass backwards through the layers."""
        return self.inverse(torch.randn(count, len(self.layers[0].mask)))


def train_flow(flow: Flow, draw: Draw, steps: int, *, batch: int = 256, rate: float = 5e-3) -> Tensor:
    """Maximum likelihood: Adam down the mean of −log p(x), its rate falling to 0. Returns the loss at each step, in nats."""
    optimiser, losses = torch.optim.Adam(flow.parameters(), rate), []
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * (1 - step / steps)
        loss = -flow.log_prob(draw(batch)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return torch.stack(losses)
