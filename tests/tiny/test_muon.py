"""The optimizer of the tiny models: matrices of one shape at once, in float32 where bfloat16 is
emulated."""

import torch
from torch.nn import Parameter
from torch.optim import Muon

from sglang_multiverse.tiny.factory.muon import StackedMuon

SHAPES = [(24, 96), (96, 24), (32, 32), (24, 96), (32, 32), (24, 96)]


def test_stacked_matrices_take_the_steps_of_torch() -> None:
    torch.manual_seed(0)
    begin = [torch.randn(shape) for shape in SHAPES]
    ours, theirs = ([Parameter(one.clone()) for one in begin] for _ in range(2))
    options = {"lr": 0.02, "weight_decay": 0.01}
    optimizers = StackedMuon(ours, dtype=torch.float32, **options), Muon(theirs, **options)
    for _ in range(3):
        gradients = [torch.randn(shape) for shape in SHAPES]
        for matrices, optimizer in zip((ours, theirs), optimizers, strict=True):
            for matrix, gradient in zip(matrices, gradients, strict=True):
                matrix.grad = gradient.clone()
            optimizer.step()
    for first, one, other in zip(begin, ours, theirs, strict=True):
        moved = (other - first).abs().max().item()
        assert (one - other).abs().max().item() < 0.05 * moved


def test_a_matrix_without_a_gradient_stays() -> None:
    still, moving = (Parameter(torch.ones(4, 4)) for _ in range(2))
    moving.grad = torch.eye(4)
    StackedMuon([still, moving], dtype=torch.float32, lr=0.1, weight_decay=0.5).step()
    assert still.eq(1).all() and not moving.eq(1).any()
