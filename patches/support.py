"""What cannot be served yet is refused at start-up, with the remedy.

Reads ``ServerArgs`` and the set-up ``Scheduler``. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from typing import Any

from ..layout import LAYOUT_VERSION
from .hooks import PatchError

#: Backends that write K and V of a whole batch before they attend, at token granularity.
ATTENTION_BACKENDS = ("torch_native", "triton", "flashinfer", "fa3")


def _refuse(what: str, remedy: str) -> str:
    return f"{what}: {remedy}"


def argument_problems(args: Any) -> list[str]:
    """Why these server arguments cannot be served with fork and join."""
    found: list[str] = []

    def refuse(condition: Any, what: str, remedy: str) -> None:
        if condition:
            found.append(_refuse(what, remedy))

    refuse((args.page_size or 1) > 1, f"--page-size {args.page_size}", "pass --page-size 1")
    refuse(
        args.speculative_algorithm,
        f"--speculative-algorithm {args.speculative_algorithm}",
        "serve without speculative decoding",
    )
    refuse((args.pp_size or 1) > 1, f"--pp-size {args.pp_size}", "use tensor parallelism (--tp)")
    refuse(
        args.disaggregation_mode not in (None, "null"),
        f"--disaggregation-mode {args.disaggregation_mode}",
        "serve prefill and decode together",
    )
    refuse(
        args.enable_hierarchical_cache,
        "--enable-hierarchical-cache",
        "leave it out; the GPU prefix cache works",
    )
    refuse(args.enable_mixed_chunk, "--enable-mixed-chunk", "leave it out")
    refuse(args.dllm_algorithm, "--dllm-algorithm", "diffusion models do not decode step by step")
    refuse(args.enable_dp_attention, "--enable-dp-attention", "use tensor parallelism (--tp)")
    refuse(args.enable_lora, "--enable-lora", "serve weights with the adapter merged")
    refuse(
        args.skip_tokenizer_init,
        "--skip-tokenizer-init",
        "leave it out; the tags are found from the tokenizer",
    )
    refuse(args.enable_pdmux, "--enable-pdmux", "leave it out")
    refuse(
        args.enable_priority_scheduling,
        "--enable-priority-scheduling",
        "leave it out; requests run in order of arrival",
    )
    refuse(
        (args.tokenizer_worker_num or 1) > 1,
        f"--tokenizer-worker-num {args.tokenizer_worker_num}",
        "pass --tokenizer-worker-num 1",
    )
    for name in ("attention_backend", "prefill_attention_backend", "decode_attention_backend"):
        backend = getattr(args, name)
        refuse(
            backend is not None and backend not in ATTENTION_BACKENDS,
            f"--{name.replace('_', '-')} {backend}",
            f"pass one of {', '.join(ATTENTION_BACKENDS)}",
        )
    return found


def check_scheduler(scheduler: Any) -> None:
    """The same for what only a loaded model shows.

    Raises:
        PatchError: with every reason and its remedy.
    """
    found: list[str] = []
    config = scheduler.model_config
    runner = scheduler.tp_worker.model_runner
    if scheduler.page_size != 1:
        found.append(_refuse(f"page size {scheduler.page_size}", "pass --page-size 1"))
    if scheduler.is_hybrid_swa:
        found.append(
            _refuse("a model with sliding-window attention", "serve it without the plugin")
        )
    if scheduler.is_hybrid_ssm:
        found.append(_refuse("a hybrid state-space model", "serve it without the plugin"))
    if config.model_is_mrope:
        found.append(
            _refuse("a model with multimodal rotary positions", "serve it without the plugin")
        )
    if not scheduler.is_generation:
        found.append(_refuse("a model that does not generate", "serve it without the plugin"))
    made = getattr(config.hf_config, "multiverse", None) or {}
    if made.get("layout", LAYOUT_VERSION) != LAYOUT_VERSION:
        found.append(
            _refuse(
                f"weights trained under layout rule {made['layout']}",
                f"serve them with a release that has it; this one has rule {LAYOUT_VERSION}",
            )
        )
    if scheduler.dllm_config is not None:
        found.append(_refuse("a diffusion model", "serve it without the plugin"))
    for backend in {runner.prefill_attention_backend_str, runner.decode_attention_backend_str}:
        if backend not in ATTENTION_BACKENDS:
            found.append(
                _refuse(
                    f"attention backend {backend}",
                    f"pass --attention-backend with one of {', '.join(ATTENTION_BACKENDS)}",
                )
            )
    if found:
        raise PatchError("--plugin multiverse cannot serve this: " + "; ".join(found))
