"""The backend for the device at hand. The plugin registers :func:`build` with SGLang."""

from __future__ import annotations

from typing import Any

#: What ``--attention-backend`` calls it.
NAME = "multiverse"


def build(model_runner: Any, *, cascade: bool = False) -> Any:
    """The ``multiverse`` attention backend of a model runner.

    Args:
        cascade: see ``MultiverseFlashInferBackend``; a CPU decodes as stock.

    Raises:
        ValueError: on a device or a model it does not serve, with the remedy.
    """
    if model_runner.use_mla_backend:
        raise ValueError(
            "--attention-backend multiverse serves models with K and V per head, and this one has "
            "latent attention (MLA): serve it without the plugin"
        )
    device = str(model_runner.device).partition(":")[0]
    if device == "cpu":
        return _on_cpu(model_runner)
    if device == "cuda":
        return _on_cuda(model_runner, cascade)
    raise ValueError(
        f"--attention-backend multiverse runs on cuda and cpu, and this server is on {device}: "
        "pass --attention-backend triton, over which forks are served as rows"
    )


def _on_cpu(model_runner: Any) -> Any:
    from .torch_native import MultiverseTorchBackend

    return MultiverseTorchBackend(model_runner)


def _on_cuda(model_runner: Any, cascade: bool) -> Any:
    from sglang.srt.utils import is_flashinfer_available, is_hip

    if is_hip() or not is_flashinfer_available():
        raise ValueError(
            "--attention-backend multiverse needs FlashInfer, which is not to be had here: install "
            "flashinfer-python, or pass --attention-backend triton, over which forks are served "
            "as rows"
        )
    from .flashinfer import MultiverseFlashInferBackend

    return MultiverseFlashInferBackend(
        model_runner, init_new_workspace=model_runner.init_new_workspace, cascade=cascade
    )


__all__ = ["NAME", "build"]
