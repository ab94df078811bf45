"""The optimizer of the tiny models: float32 where bfloat16 would be emulated."""

import pytest
import torch
from torch.optim import Muon

from sglang_multiverse.tiny.factory.muon import Float32Muon


@pytest.mark.parametrize("shape", [(24, 96), (96, 24), (32, 32)])
def test_float32_takes_the_steps_of_torch(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    begin = torch.randn(shape)
    ours, theirs = (torch.nn.Parameter(begin.clone()) for _ in range(2))
    optimizers = (
        Float32Muon([ours], lr=0.02, weight_decay=0.01),
        Muon([theirs], lr=0.02, weight_decay=0.01),
    )
    for _ in range(3):
        gradient = torch.randn(shape)
        for matrix, optimizer in zip((ours, theirs), optimizers, strict=True):
            matrix.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - begin).abs().max().item()
    assert (ours - theirs).abs().max().item() < 0.05 * moved
