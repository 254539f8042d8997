"""What a card would refuse is refused without one."""

import pytest
import torch
from pretend_card import Meeting, pretend_card
from torch import nn


def test_tensors_of_two_devices_may_not_meet():
    with pretend_card():
        card, cpu = torch.ones(3, device="cuda"), torch.ones(3)
        assert card.device.type == "cuda" and cpu.device.type == "cpu" and (card * 2).device.type == "cuda"
        for wrong in (
            lambda: card + cpu,
            lambda: torch.cat([card, cpu]),
            lambda: torch.where(cpu > 0, card, card),
            lambda: cpu[torch.zeros(1, dtype=torch.long, device="cuda")],
            lambda: cpu / card.sum(),
            lambda: nn.Linear(3, 2).to("cuda")(cpu),
            lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
        ):
            with pytest.raises(Meeting):
                wrong()
        with pytest.raises(TypeError):
            card.numpy()


def test_what_a_card_allows_is_allowed():
    with pretend_card():
        card, cpu = torch.ones(3, device="cuda"), torch.arange(3)
        for right in (
            card + torch.tensor(1.0),
            card[cpu],
            card + cpu.to(card),
            card * 2,
            torch.randn(3, generator=torch.Generator()).to(card),
        ):
            assert right.device.type == "cuda"
        assert card.cpu().device.type == "cpu" and card.to("cpu").numpy().sum() == 3 and float(card.sum()) == 3
        place = torch.zeros(3)
        place.copy_(card)
        assert place.device.type == "cpu"


def test_a_layer_that_is_moved_learns_there():
    with pretend_card():
        layer = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)).to("cuda")
        layer(torch.randn(1, 2, 5, 5).to("cuda")).square().mean().backward()
        for parameter in layer.parameters():
            assert parameter.device.type == parameter.grad.device.type == "cuda"
        torch.optim.AdamW(layer.parameters(), fused=True).step()
        assert {value.device.type for value in layer.state_dict().values()} == {"cuda"}
