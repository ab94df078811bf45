"""Muon for weight matrices, AdamW for the rest, as one optimizer.

A model this small on a task this regular learns in about half the steps that AdamW alone takes:
orthogonal updates move the rare directions, such as copying over a fixed distance, as fast as the
common ones (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer


def fast_bfloat16() -> bool:
    """Whether this machine has instructions for bfloat16. Where it has none they are emulated: with
    AVX2 alone a product takes 40 to 60 times as long as in float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Float32Muon(Muon):
    """torch's Muon, which orthogonalises in bfloat16 whatever the machine, in float32."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                kept = self.state[matrix]
                if "momentum_buffer" not in kept:
                    kept["momentum_buffer"] = torch.zeros_like(matrix.grad)
                momentum = kept["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
                update = matrix.grad.lerp(momentum, group["momentum"])
                update = _orthogonal(update, group["ns_coefficients"], group["ns_steps"])
                wider = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * wider)
        return loss


def _orthogonal(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int
) -> torch.Tensor:
    """The matrix with all singular values near one: Newton-Schulz with the quintic of Muon."""
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix) / matrix.norm().clamp(min=1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class MuonAdamW(Optimizer):
    """Two optimizers under one face; a learning-rate schedule scales both alike.

    Args:
        model: every matrix below its embeddings goes to Muon.
        lr: of AdamW, for embeddings, norms and biases.
        muon_lr: of Muon.
        weight_decay: of both; norms and biases have none.
    """

    def __init__(
        self, model: nn.Module, *, lr: float, muon_lr: float, weight_decay: float = 0.01
    ) -> None:
        embeddings = {
            id(parameter)
            for module in model.modules()
            if isinstance(module, nn.Embedding)
            for parameter in module.parameters()
        }
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        matrices = [p for p in trained if p.ndim == 2 and id(p) not in embeddings]
        tables = [p for p in trained if id(p) in embeddings]
        vectors = [p for p in trained if p.ndim < 2]
        groups = [
            {"params": matrices, "lr": muon_lr, "weight_decay": weight_decay},
            {"params": tables, "lr": lr, "weight_decay": weight_decay},
            {"params": vectors, "lr": lr, "weight_decay": 0.0},
        ]
        super().__init__(groups, {})
        muon = Muon if fast_bfloat16() else Float32Muon
        self.parts: tuple[Optimizer, ...] = (
            muon(matrices, lr=muon_lr, weight_decay=weight_decay),
            AdamW([dict(group) for group in groups[1:]], betas=(0.9, 0.95)),
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        inner = [group for part in self.parts for group in part.param_groups]
        for group, scheduled in zip(inner, self.param_groups, strict=True):
            group["lr"] = scheduled["lr"]
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
