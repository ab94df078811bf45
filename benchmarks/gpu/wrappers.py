"""FlashInfer's wrappers on a GPU; on a dry run dense torch by the same plans, so that everything
but the kernels is exercised."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import ROOT, dense

from sglang_multiverse.attention.cascade import CascadeDecodeWrapper

WORKSPACE = 512 << 20  # bytes, as SGLang gives FlashInfer for Qwen2


class Dense:
    """Takes the place of a paged prefill or decode wrapper."""

    def plan(self, *arrays: Any, causal: bool = False, **options: Any) -> None:
        tensors = [x for x in arrays if isinstance(x, torch.Tensor)]
        if len(tensors) == 4:
            qo, kv, self.indices, _ = tensors
        else:
            kv, self.indices, _ = tensors
            qo = torch.arange(len(kv))
        self.qo, self.kv = qo.tolist(), kv.tolist()
        self.causal = causal
        self.mask = options.get("custom_mask")

    def forward(self, q: torch.Tensor, cache: Any, **options: Any) -> torch.Tensor:
        return self.forward_return_lse(q, cache, **options)[0]

    def forward_return_lse(
        self, q: torch.Tensor, cache: Any, *, sm_scale: float, causal: bool | None = None, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        out, log = torch.empty_like(q), torch.empty(q.shape[:2])
        group = q.shape[1] // cache[0].shape[1]
        at = 0
        for i in range(len(self.qo) - 1):
            rows = slice(self.qo[i], self.qo[i + 1])
            slots = self.indices[self.kv[i] : self.kv[i + 1]].long()
            shape = (rows.stop - rows.start, len(slots))
            mask = torch.ones(shape, dtype=torch.bool)
            if self.mask is not None:
                mask = self.mask[at : at + mask.numel()].view(shape)
                at += mask.numel()
            elif causal if causal is not None else self.causal:
                mask = mask.tril(shape[1] - shape[0])
            out[rows] = dense(q[rows], *(x[slots] for x in cache), mask, sm_scale).to(q.dtype)
            keys = cache[0][slots].float().repeat_interleave(group, 1)
            score = torch.einsum("qhd,khd->qhk", q[rows].float(), keys) * sm_scale
            score = score.masked_fill(~mask[:, None], -torch.inf)
            log[rows] = score.logsumexp(-1) / torch.log(torch.tensor(2.0))
        return out, log


def merge(a: torch.Tensor, log_a: torch.Tensor, b: torch.Tensor, log_b: torch.Tensor) -> Any:
    """``flashinfer.merge_state``, densely."""
    both = torch.logaddexp2(log_a, log_b)
    weigh = [torch.exp2(log - both)[..., None] for log in (log_a, log_b)]
    return (a * weigh[0] + b * weigh[1]).to(a.dtype), both


class Kernels:
    """Makes wrappers, and knows how to time what they run."""

    def __init__(self, dry: bool):
        self.dry = dry
        self.device = torch.device("cpu" if dry else "cuda")
        self.workspace = None if dry else torch.empty(WORKSPACE, dtype=torch.uint8, device="cuda")

    def prefill(self) -> Any:
        if self.dry:
            return Dense()
        from flashinfer import BatchPrefillWithPagedKVCacheWrapper

        return BatchPrefillWithPagedKVCacheWrapper(self.workspace, "NHD", backend="fa2")

    def decode(self, **graph: Any) -> Any:
        """As SGLang's for a GQA ratio of 4 and more."""
        if self.dry:
            return Dense()
        from flashinfer import BatchDecodeWithPagedKVCacheWrapper

        return BatchDecodeWithPagedKVCacheWrapper(
            self.workspace, "NHD", backend="fa2", use_tensor_cores=True, **graph
        )

    def cascade(self) -> CascadeDecodeWrapper:
        if self.dry:
            return CascadeDecodeWrapper(Dense(), Dense(), merge)
        from flashinfer import merge_state

        return CascadeDecodeWrapper(self.prefill(), self.decode(), merge_state)

    def time(self, call: Callable[[], Any], repeats: int) -> dict[str, float]:
        """Median and quartiles of ``call``, in milliseconds of the device."""
        for _ in range(1 if self.dry else 5):
            call()
        taken = [self._once(call) for _ in range(repeats)]
        low, middle, high = statistics.quantiles(taken, n=4) if len(taken) > 1 else taken * 3
        return {"ms": middle, "low": low, "high": high}

    def _once(self, call: Callable[[], Any]) -> float:
        if self.dry:
            start = time.perf_counter()
            call()
            return 1e3 * (time.perf_counter() - start)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    def host(self, call: Callable[[], Any], repeats: int) -> float:
        """Median milliseconds of the host for ``call``, the device idle before it."""
        taken = []
        for _ in range(repeats):
            if not self.dry:
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            taken.append(1e3 * (time.perf_counter() - start))
        return statistics.median(taken)


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--dry-run", action="store_true", help="small, on a CPU, no kernels")
    parser.add_argument("--json", type=Path, help="where the result is written; else printed")
    return parser


def machine(dry: bool, *, flashinfer: bool = True) -> dict[str, Any]:
    """What the figures were taken on; ``flashinfer`` says whether it played a part."""
    found: dict[str, Any] = {
        "dry_run": dry,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "revision": revision(),
    }
    if not dry:
        found |= {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
        if flashinfer:
            found["flashinfer"] = importlib.import_module("flashinfer").__version__
    return found


def revision() -> str | None:
    """The commit of the repository, where it is one."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def report(result: dict[str, Any], to: Path | None) -> None:
    text = json.dumps(result, indent=1)
    if to is None:
        print(text)
    else:
        to.write_text(text + "\n", encoding="utf-8")
        print(f"written to {to}")
