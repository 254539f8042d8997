"""Weights of diffusers' and transformers' networks in ours, tensor by tensor; and weights at random, none of them silent."""

import torch
from torch import nn

from minildm.names import Rules, renamed


def copy_weights(ours: nn.Module, reference: nn.Module, rules: Rules) -> None:
    """Fill our network from the reference. Raises ValueError when a parameter on either side finds no partner of its shape."""
    theirs = dict(reference.named_parameters())
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            partner = renamed(name, rules)
            if partner not in theirs:
                raise ValueError(f"our {name} would be the reference's {partner}, which does not exist or is already taken")
            value = theirs.pop(partner)
            if value.shape != parameter.shape:
                raise ValueError(f"our {name} is {tuple(parameter.shape)}, the reference's {partner} {tuple(value.shape)}")
            parameter.copy_(value)
    if theirs:
        raise ValueError(f"{len(theirs)} parameters of the reference are left over: {', '.join(theirs)}")


def fill_at_random(module: nn.Module, size: float = 1.0, seed: int = 0) -> nn.Module:
    """Give every parameter its own random values, of a size that keeps signals near 1, so that nothing hides behind a zero.

    Matrices and kernels: variance 1/fan-in. Gains of norms: 1 ± 0.2. Biases and shifts: ± 0.2. All but the 1 times `size`.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = (nn.GroupNorm, nn.LayerNorm)
    gains = {id(part.weight) for part in module.modules() if isinstance(part, norms)}
    with torch.no_grad():
        for parameter in module.parameters():
            values = torch.randn(parameter.shape, generator=generator)
            scale = 0.2 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(values * scale * size + (1 if id(parameter) in gains else 0))
    return module.eval()
