"""Muon, an optimizer for matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): every direction moves alike.

A gradient of a weight matrix is mostly made of a few directions, its largest singular vectors, and steps of gradient descent go
along these. Adam weighs every entry by itself, which changes that only in part. Muon takes the singular value decomposition
U S Vᵀ of the averaged gradient and steps along U Vᵀ: the same directions, all equally far. What is rare in the data is learned as
soon as what is frequent. PyTorch's own (`torch.optim.Muon`) takes no convolutions and computes in bfloat16, in which a CPU that
lacks it needs 7 to 50 times as long as this does in float32 (benchmarks/RESULTS.md).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

QUINTIC, ROUNDS = (3.4445, -4.7750, 2.0315), 3  # Jordan's: steep at zero, so that three rounds carry 0.02 to about 1


def orthogonalized(matrices: Tensor) -> Tensor:
    """About U Vᵀ of each matrix U S Vᵀ: singular values of a fiftieth of its length or more end between 0.68 and 1.21.

    Three rounds of x ← (a + b x xᵀ + c (x xᵀ)²) x, which acts on every singular value s as s ← a s + b s³ + c s⁵ does, and needs
    only products. Smaller values grow by at most a³ = 41. (Jordan takes five rounds. In our denoiser three train as well; in an
    autoencoder five gave 0.7 dB more.) The brackets are polynomials of one and the same x xᵀ, so they are multiplied with each
    other first, and x only once at the end.

    Args:
        matrices: N×rows×columns. Zeros stay zeros.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # the shorter side first: x xᵀ is small
    gram, bracket, factor = x @ x.mT, None, None
    length = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].sqrt() + 1e-7  # of x: the trace of x xᵀ is its square
    gram = gram / length**2
    a, b, c = QUINTIC
    for _ in range(ROUNDS):
        gram = gram if bracket is None else bracket @ gram @ bracket
        bracket = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        bracket.diagonal(dim1=1, dim2=2).add_(a)
        factor = bracket if factor is None else bracket @ factor
    x = (factor / length) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonalised average of the gradients; a convolution counts as a matrix with a row an output channel.

    Args:
        parameters: two dimensions or more each.
        lr: about the root mean square of what one step adds to a weight, if every direction has a gradient. (Adam's first step
            adds exactly its rate to each; so both can have the same one. Liu et al. 2025, arXiv:2502.16982, section 2.2, match
            them at a fifth of this.)
        momentum: of the running average of gradients; the step looks ahead by one (Nesterov).
        weight_decay: lr · weight_decay of a weight is taken off in every step, as in AdamW.
        precision: the type that directions are computed in; None: that of the weights, which they and their averages keep. In
            bfloat16, which trains as well and is faster where a machine has it, small singular values end between 0.3 and 1.8.

    Raises:
        ValueError: a parameter of fewer than two dimensions.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.8,
        weight_decay: float = 0.0,
        precision: torch.dtype | None = None,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "precision": precision})
        for parameter in self.param_groups[0]["params"]:
            if parameter.dim() < 2:
                raise ValueError(f"a parameter of shape {tuple(parameter.shape)} is no matrix: leave it to another optimizer")

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient, those of one shape together: many small products take long one by one."""
        for group in self.param_groups:
            alike: dict[tuple, list[nn.Parameter]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    alike.setdefault((weight.shape, weight.device, weight.dtype), []).append(weight)
            for weights in alike.values():
                # Columns may stand in any order: in that of the memory, where convolutions are channels-last, nothing is copied.
                ahead = [self._ahead(weight, group["momentum"]).movedim(1, -1) for weight in weights]
                together = torch.stack([each.flatten(1) for each in ahead])
                directions = orthogonalized(together.to(group["precision"] or together.dtype))
                directions *= group["lr"] * max(directions.shape[1:]) ** 0.5  # from length 1 each to a root mean square of lr
                for weight, direction in zip(weights, directions, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.movedim(1, -1).sub_(direction.view(ahead[0].shape))

    def _ahead(self, weight: nn.Parameter, momentum: float) -> Tensor:
        """Update the average of a weight's gradients; what it will be if the next gradient is like this one."""
        state = self.state[weight]
        if not state:
            state["average"] = torch.zeros_like(weight)
        state["average"].lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(state["average"], momentum)


def muon_and_adamw(
    parts: nn.Module, lr: float, weight_decay: float = 0.0, precision: torch.dtype | None = None
) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for what multiplies, the weights of linear layers and convolutions; AdamW for the rest: biases, norms, tables.

    Weights that are frozen are left out. `precision` is Muon's.
    """
    layers = [layer.weight for layer in parts.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    matrices = {id(weight): weight for weight in layers if weight.requires_grad}
    rest = [each for each in parts.parameters() if each.requires_grad and id(each) not in matrices]
    params = [{"params": list(matrices.values())}]  # a group may be empty, a list may not
    muon = Muon(params, lr, weight_decay=weight_decay, precision=precision)
    return muon, torch.optim.AdamW([{"params": rest}], lr, (0.9, 0.99), weight_decay=weight_decay, fused=True)
