"""What cannot be served is refused at start-up, with the remedy.

Server arguments are refused by the tables of ``compatibility``; what only a loaded model shows, by
:func:`check_scheduler`. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from typing import Any

from sglang.srt.configs.model_config import AttentionArch

from ..layout import LAYOUT_VERSION
from . import attention
from .compatibility import ARGUMENTS, argument_problems, refusal, resolved_problems
from .hooks import PatchError

#: Backends that write K and V of a whole batch before they attend, at token granularity.
ATTENTION_BACKENDS: tuple[str, ...] = next(
    entry.served for entry in ARGUMENTS if "attention_backend" in entry.fields
)

_WITHOUT = "serve it without the plugin"


def check_scheduler(scheduler: Any) -> None:
    """Refuse what only a set-up scheduler shows: the model's kind, what SGLang chose for it.

    Raises:
        PatchError: with every reason and its remedy.
    """
    found = [*model_problems(scheduler), *resolved_problems(scheduler.server_args)]
    if found:
        raise PatchError(refusal(found))


def share_every(scheduler: Any) -> int | None:
    """What the server was told, or else what its weights were trained with."""
    settings = getattr(scheduler.server_args, "_multiverse", None) or {}
    made = getattr(scheduler.model_config.hf_config, "multiverse", None) or {}
    told: int | None = settings.get("options", {}).get("share_every", made.get("share_every"))
    return told


def layout_problems(made: dict[str, Any], served_with: int | None) -> list[str]:
    """Why weights cannot be served under this layout.

    Args:
        made: what their config records under ``multiverse``.
        served_with: tokens after which paths of this server share, or None.
    """
    rule, made_with = made.get("layout", LAYOUT_VERSION), made.get("share_every")
    found = []
    if rule != LAYOUT_VERSION:
        found.append(
            f"weights trained under layout rule {rule}: serve them with a release that has it; "
            f"this one has rule {LAYOUT_VERSION}"
        )
    if made_with is not None and made_with != served_with:
        found.append(
            f"weights trained with share_every={made_with}: start the server with "
            f"--multiverse-share-every {made_with}, or leave it out: then it is the weights'"
        )
    return found


def model_problems(scheduler: Any) -> list[str]:
    """Why the loaded model cannot be served with fork and join."""
    config = scheduler.model_config
    runner = scheduler.tp_worker.model_runner
    made = getattr(config.hf_config, "multiverse", None) or {}
    unserved = [
        (scheduler.page_size != 1, f"page size {scheduler.page_size}", "pass --page-size 1"),
        (
            scheduler.is_hybrid_swa or runner.sliding_window_size is not None,
            "a model with sliding-window or chunked attention",
            _WITHOUT,
        ),
        (scheduler.is_hybrid_ssm, "a hybrid state-space model", _WITHOUT),
        (
            config.attention_arch is not AttentionArch.MHA,
            f"a model with {config.attention_arch.name} attention",
            _WITHOUT,
        ),
        (config.is_encoder_decoder, "an encoder-decoder model", _WITHOUT),
        (config.use_ngram_embedding, "a model with n-gram embeddings", _WITHOUT),
        (config.model_is_mrope, "a model with multimodal rotary positions", _WITHOUT),
        (not scheduler.is_generation, "a model that does not generate", _WITHOUT),
        (scheduler.dllm_config is not None, "a diffusion model", _WITHOUT),
    ]
    backends = {runner.prefill_attention_backend_str, runner.decode_attention_backend_str}
    unserved.append(
        (
            len(backends) > 1 and attention.NAME in backends,
            f"attention backends {' and '.join(sorted(backends))} together",
            # SGLang's wrapper of two does not ask ours which forwards a CUDA graph can hold.
            f"pass --attention-backend {attention.NAME} alone",
        )
    )
    for backend in sorted(backends):
        unserved.append(
            (
                backend not in ATTENTION_BACKENDS,
                f"attention backend {backend}",
                f"pass --attention-backend with one of {', '.join(ATTENTION_BACKENDS)}",
            )
        )
    found = [f"{what}: {remedy}" for refused, what, remedy in unserved if refused]
    return [*layout_problems(made, share_every(scheduler)), *found]


__all__ = [
    "ATTENTION_BACKENDS",
    "argument_problems",
    "check_scheduler",
    "layout_problems",
    "model_problems",
    "share_every",
]
