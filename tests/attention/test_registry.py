"""Which backend a device gets, and what may be imported where."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_multiverse.attention import registry
from sglang_multiverse.attention.torch_native import MultiverseTorchBackend


def runner(device: str, *, mla: bool = False) -> Any:
    return SimpleNamespace(
        device=device,
        use_mla_backend=mla,
        req_to_token_pool=None,
        token_to_kv_pool=None,
        init_new_workspace=False,
    )


def test_a_cpu_gets_the_torch_backend() -> None:
    assert type(registry.build(runner("cpu"))) is MultiverseTorchBackend


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (runner("cuda:0"), "needs FlashInfer"),  # this machine has no CUDA, so SGLang says no
        (runner("npu"), "runs on cuda and cpu, and this server is on npu: pass --attention"),
        (runner("cpu", mla=True), "latent attention"),
    ],
)
def test_what_is_not_served_is_refused_with_the_remedy(asked: Any, words: str) -> None:
    if str(asked.device).startswith("cuda"):
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has CUDA")
    with pytest.raises(ValueError, match=words):
        registry.build(asked)


@pytest.mark.parametrize("module", ["plan", "cascade_plan", "batch", "registry"])
def test_plans_are_numpys_alone(module: str) -> None:
    code = f"""
import sys
class Barred:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "sglang", "flashinfer", "triton"):
            raise ImportError(f"{{name}} is barred")
sys.meta_path.insert(0, Barred())
import sglang_multiverse.attention.{module}
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
