"""Start-up: hooks that must apply, options, and what is refused before anything is served."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("sglang", reason="the serve extra is not installed")
os.environ.setdefault("SGLANG_PLATFORM", "torch_cpu")

from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.server_args import ServerArgs

from sglang_multiverse.patches import arguments, batch, forward, scheduler, stream
from sglang_multiverse.patches.hooks import Hook, PatchError, apply, problems
from sglang_multiverse.patches.support import argument_problems
from sglang_multiverse.tiny import MODEL_DIR

ALL_HOOKS = [
    *arguments.HOOKS,
    *scheduler.HOOKS,
    *batch.HOOKS,
    *forward.HOOKS,
    *stream.HOOKS,
    *stream.MAIN_HOOKS,
]


def server_args(**changes: Any) -> Any:
    return ServerArgs(model_path=str(MODEL_DIR), device="cpu", **changes)


def test_every_target_is_as_expected() -> None:
    assert problems(ALL_HOOKS) == []


@pytest.mark.parametrize(
    ("target", "parameters", "says"),
    [
        ("sglang.srt.managers.scheduler.Scheduler.gone", ("self",), "is not there"),
        ("sglang.srt.no_such_module.f", ("x",), "is not there"),
        (
            "sglang.srt.managers.scheduler.Scheduler.abort_request",
            ("self", "other_name"),
            "expected",
        ),
    ],
)
def test_a_hook_that_cannot_apply_stops_the_server(
    target: str, parameters: tuple[str, ...], says: str
) -> None:
    hook = Hook(target, HookType.AFTER, lambda result, *args: result, parameters)
    with pytest.raises(PatchError, match=says):
        apply([hook])
    assert target not in HookRegistry._patched


def test_tiny_model_arguments_are_served() -> None:
    assert argument_problems(server_args(attention_backend="torch_native")) == []


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"page_size": 16}, "--page-size"),
        ({"attention_backend": "trtllm_mha"}, "--attention-backend"),
        ({"enable_mixed_chunk": True}, "--enable-mixed-chunk"),
        ({"enable_lora": True}, "--enable-lora"),
        ({"skip_tokenizer_init": True}, "--skip-tokenizer-init"),
        ({"enable_priority_scheduling": True}, "--enable-priority-scheduling"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_served_is_refused_with_a_remedy(changes: dict[str, Any], flag: str) -> None:
    plain = vars(SimpleNamespace(**{f: getattr(server_args(), f) for f in _FIELDS}))
    (problem,) = argument_problems(SimpleNamespace(**{**plain, **changes}))
    assert problem.startswith(flag)
    assert ": " in problem


_FIELDS = (
    "page_size",
    "speculative_algorithm",
    "pp_size",
    "disaggregation_mode",
    "enable_hierarchical_cache",
    "enable_mixed_chunk",
    "dllm_algorithm",
    "enable_dp_attention",
    "enable_lora",
    "skip_tokenizer_init",
    "enable_pdmux",
    "enable_priority_scheduling",
    "tokenizer_worker_num",
    "attention_backend",
    "prefill_attention_backend",
    "decode_attention_backend",
)


def parsed(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    arguments._add_cli_args(None, parser)
    return parser.parse_args(flags)


def test_options_on_the_command_line() -> None:
    args = parsed("--plugin", "multiverse", "--multiverse-max-branches", "none")
    assert args.plugin == ["multiverse"]
    assert args.multiverse_max_branches is None
    assert args.multiverse_max_depth == 4
    with pytest.raises(SystemExit):
        parsed("--plugin", "another")


def test_activation_travels_with_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    monkeypatch.delenv(arguments.ACTIVE, raising=False)
    args = server_args()
    arguments.activate(args, ["multiverse"], {"max_branches": 3}, None)
    assert os.environ[arguments.ACTIVE] == "1"
    again = pickle.loads(pickle.dumps(args))
    assert again._multiverse == {"options": {"max_branches": 3}, "dialect": None}
    arguments.activate(server_args(), [], {}, None)
    assert arguments.ACTIVE not in os.environ


def test_a_bad_option_ends_start_up() -> None:
    with pytest.raises(SystemExit, match="max_branches"):
        arguments.activate(server_args(), ["multiverse"], {"max_branches": -2}, None)


def test_the_real_command_refuses_and_names_the_remedy() -> None:
    command = [sys.executable, "-m", "sglang.launch_server", "--plugin", "multiverse"]
    flags = ["--model-path", str(MODEL_DIR), "--device", "cpu", "--page-size", "16"]
    done = subprocess.run(
        [*command, *flags],
        env={**os.environ, "SGLANG_PLATFORM": "torch_cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert "--page-size 16: pass --page-size 1" in done.stderr
