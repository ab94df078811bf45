"""Environment variables that change what is served."""

from __future__ import annotations

from .entry import REFUSED, WORKS, Variable

ENVIRONMENT = (
    Variable(
        WORKS,
        "SGLANG_PLUGINS",
        "SGLang loads only the plugins and platforms it names; if set, it must hold `multiverse` "
        "(and `torch_cpu` where that platform is used), else `--plugin` is an unknown flag",
    ),
    Variable(WORKS, "SGLANG_PLATFORM", "`torch_cpu` serves on any CPU"),
    Variable(
        WORKS,
        "SGLANG_FLASHINFER_USE_PAGED",
        "set to 1 by `--plugin multiverse`: a fork or join reads KV that its own step writes, "
        "which FlashInfer's ragged prefill does not offer",
    ),
    Variable(
        WORKS,
        "SGLANG_HTTP_SERVER_APP_PATH",
        "set by `--plugin multiverse`: the application that tokenizer workers load",
    ),
    Variable(
        WORKS,
        "SGLANG_REQ_WAITING_TIMEOUT",
        "seconds in the queue before a request is aborted; held for the request as a whole",
    ),
    Variable(
        WORKS,
        "SGLANG_REQ_RUNNING_TIMEOUT",
        "seconds of running before a request is aborted; held for the request as a whole, not for "
        "each path",
    ),
    Variable(
        WORKS,
        "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY",
        "after every step: the owners of KV slots add up to the pool; the tests run with it",
    ),
    Variable(
        WORKS,
        "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_IDLE",
        "the same when nothing runs; on by default",
    ),
    Variable(
        WORKS,
        "SGLANG_CHECK_KV_PAGE_INVARIANTS",
        "double frees and use after free of KV slots; the tests run with it",
    ),
    Variable(
        REFUSED,
        "SGLANG_RUST_SERVER",
        "the Rust server answers without the Python tokenizer manager, which adds `meta_info`",
        "leave it unset",
    ),
    Variable(
        REFUSED,
        "SGLANG_GRPC_PORT",
        "the native gRPC server is not run with forks",
        "use the HTTP server",
    ),
)
