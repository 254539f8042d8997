"""What a card would refuse is refused without one, and what it allows is allowed."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretend_card import Meeting, pretend_card
from torch import Tensor, nn


def card(*shape: int) -> Tensor:
    return torch.ones(shape, device="cuda")


def fused_adam_with_a_step_of_the_cpu() -> None:
    weight = nn.Parameter(card(3))
    weight.grad = card(3)
    optimizer = torch.optim.AdamW([weight], fused=True)
    optimizer.step()
    optimizer.state[weight]["step"] = optimizer.state[weight]["step"].cpu()
    optimizer.step()


def added_to(total: Tensor) -> None:
    total += card()


REFUSED = {
    "a sum": lambda: card(3) + torch.ones(3),
    "cat": lambda: torch.cat([card(3), torch.ones(3)]),
    "cat with nothing": lambda: torch.cat([torch.empty(0), card(3)]),
    "a stack of numbers": lambda: torch.stack([card(), torch.tensor(1.0)]),
    "where": lambda: torch.where(torch.ones(3) > 0, card(3), card(3)),
    "indices on the card": lambda: torch.ones(3)[torch.zeros(1, dtype=torch.long, device="cuda")],
    "values of the CPU at places": lambda: card(3).__setitem__(torch.tensor([0, 1]), torch.ones(2)),
    "a number of the card": lambda: torch.ones(3) / card(3).sum(),
    "a layer's input": lambda: nn.Linear(3, 2).to("cuda")(torch.ones(3)),
    "an index without dimensions": lambda: F.embedding(torch.tensor(1), card(3, 2)),
    "a limit": lambda: card(3).clamp(max=torch.tensor(1.0)),
    "a sum into a number": lambda: added_to(torch.zeros(())),
    "a result that is put elsewhere": lambda: torch.add(card(3), card(3), out=torch.empty(())),
    "a generator": lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
    "a generator beside a tensor": lambda: torch.multinomial(card(3), 1, generator=torch.Generator()),
    "a generator in place": lambda: card(3).normal_(generator=torch.Generator()),
    "another's shape": lambda: torch.tensor(0.0).expand_as(card(3)) + card(3),
    "numbers of the card in a list": lambda: torch.tensor([card(), card()]) + card(2),
    "a fused optimizer's step": fused_adam_with_a_step_of_the_cpu,
}
STAY = {  # on the CPU
    "an item from the card": lambda: copy_into(torch.zeros(2), card()),
    "a copy": lambda: torch.zeros(3).copy_(card(3)),
    "a number of the card as an index": lambda: torch.arange(3)[torch.tensor(1, device="cuda")],
    "cpu": lambda: card(3).cpu(),
    "to": lambda: card(3).to("cpu", torch.float64),
    "as_tensor": lambda: torch.as_tensor(card(3), device="cpu"),
    "the other's shape": lambda: torch.tensor(0.0).expand_as(card(3)),
    "what as_tensor was given": lambda: as_tensor_of(torch.zeros(3)),
}
MOVE = {  # or stay on the card
    "a number of the CPU": lambda: card(3) * torch.tensor(2.0),
    "numbers of both": lambda: card() * torch.tensor(2.0),
    "indices of the CPU": lambda: card(3)[torch.arange(2)],
    "nothing of it": lambda: card(3)[card(3) > 5],
    "part of it, written": lambda: copy_into(card(3), torch.zeros(())),
    "to another": lambda: torch.arange(3).to(card(3)),
    "drawn here, moved there": lambda: torch.randn(3, generator=torch.Generator()).to(card(3)),
    "as_tensor": lambda: torch.as_tensor(torch.ones(3), device="cuda"),
    "as_tensor of numpy's": lambda: torch.as_tensor(np.ones(3), device="cuda"),
    "like it": lambda: torch.zeros_like(card(3)),
    "a copy of a layer": lambda: copy.deepcopy(nn.Linear(2, 2).to("cuda")).weight,
    "under autocast": lambda: under_autocast(nn.Linear(3, 2, device="cuda"), card(1, 3)),
}


def copy_into(place: Tensor, value: Tensor) -> Tensor:
    place[0] = value
    return place


def as_tensor_of(tensor: Tensor) -> Tensor:
    torch.as_tensor(tensor, device="cuda")
    return tensor


def under_autocast(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cuda", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        return layer(x)


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_card_refuses_is_refused(name: str) -> None:
    with pretend_card(), pytest.raises(Meeting):
        REFUSED[name]()


@pytest.mark.parametrize("name", STAY)
def test_what_stays_on_the_cpu(name: str) -> None:
    with pretend_card():
        result = STAY[name]()
        assert result.device.type == "cpu" and result.is_cpu and not result.is_cuda
        assert isinstance(result.numpy(), np.ndarray | np.generic)


@pytest.mark.parametrize("name", MOVE)
def test_what_is_on_the_card(name: str) -> None:
    with pretend_card():
        result = MOVE[name]()
        assert result.device.type == "cuda" and result.is_cuda and not result.is_cpu
        for read in (lambda: result.detach().numpy(), lambda: np.asarray(result.detach())):
            with pytest.raises(TypeError):
                read()
        assert float(result.sum()) == float(result.cpu().sum())


def test_a_layer_that_is_moved_learns_there() -> None:
    with pretend_card():
        layer = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)).to("cuda")
        layer(torch.randn(1, 2, 5, 5).to("cuda")).square().mean().backward()
        for parameter in layer.parameters():
            assert parameter.device.type == parameter.grad.device.type == "cuda"
        torch.optim.AdamW(layer.parameters(), fused=True).step()
        assert {value.device.type for value in layer.state_dict().values()} == {"cuda"}


def test_memory_that_is_used_again_is_the_cpus() -> None:
    with pretend_card():
        for _ in range(50):
            card(1000)
            assert torch.ones(1000).device.type == "cpu"
    assert torch.ones(3, device="cpu").device.type == "cpu"
