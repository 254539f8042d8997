"""An exponential moving average of a network's weights, which samples better than the weights themselves."""

import copy

import torch
from torch import nn


class EMA:
    """Keeps `average`, a copy of a module whose weights trail behind: average ← d · average + (1 − d) · weights.

    In update n = 0, 1, … d = min(decay, n/(10 + n)): the start, when the weights are still worthless, is soon
    forgotten.

    Args:
        module: what to average. Its buffers are copied, not averaged; weights that are frozen are left as they are.
        decay: the limit of d; 1/(1 − decay) updates are remembered.
    """

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must lie in [0, 1), for example 0.999")
        self.average = copy.deepcopy(module).requires_grad_(False).eval()
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the module's present weights."""
        d = min(self.decay, self.updates / (10 + self.updates))
        pairs = zip(self.average.parameters(), module.parameters(), strict=True)
        kept, new = zip(*((kept, new) for kept, new in pairs if new.requires_grad), strict=True)
        torch._foreach_lerp_(kept, new, 1 - d)
        for kept, buffer in zip(self.average.buffers(), module.buffers(), strict=True):
            kept.copy_(buffer)
        self.updates += 1
