"""Muon for weight matrices, AdamW for the rest, as one optimizer.

A model this small on a task this regular learns in about half the steps that AdamW alone takes:
orthogonal updates move the rare directions, such as copying over a fixed distance, as fast as the
common ones (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer


def fast_bfloat16() -> bool:
    """Whether this machine has instructions for bfloat16. Where it has none they are emulated: with
    AVX2 alone a product takes 40 to 60 times as long as in float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class StackedMuon(Muon):
    """torch's Muon with matrices of one shape orthogonalised together, in ``dtype``.

    torch's takes them one by one, in bfloat16 whatever the machine: of a model this small a step on
    a GPU is mostly launches, and more than half of those were Muon's.

    Args:
        dtype: of the orthogonalisation.
        matrices, options: as of :class:`torch.optim.Muon`.
    """

    def __init__(self, matrices: list[Tensor], *, dtype: torch.dtype, **options: Any):
        super().__init__(matrices, **options)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in alike.items():
                gradients = [matrix.grad for matrix in matrices]
                kept = [self.state[matrix] for matrix in matrices]
                for state, gradient in zip(kept, gradients, strict=True):
                    if "momentum_buffer" not in state:
                        state["momentum_buffer"] = torch.zeros_like(gradient)
                momentum = [state["momentum_buffer"] for state in kept]
                torch._foreach_lerp_(momentum, gradients, 1 - group["momentum"])
                ahead = torch._foreach_lerp(gradients, momentum, group["momentum"])
                update = _orthogonal(
                    torch.stack(ahead).to(self.dtype), group["ns_coefficients"], group["ns_steps"]
                ).to(matrices[0].dtype)
                wider = max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, update.unbind(), alpha=-group["lr"] * wider)
        return loss


def _orthogonal(matrices: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """Each matrix ``[count, rows, columns]`` with all singular values near one: Newton-Schulz with
    the quintic of Muon."""
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


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
        dtype = torch.bfloat16 if fast_bfloat16() else torch.float32
        self.parts: tuple[Optimizer, ...] = (
            StackedMuon(matrices, dtype=dtype, lr=muon_lr, weight_decay=weight_decay),
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
