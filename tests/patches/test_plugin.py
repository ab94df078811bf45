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

from sglang.srt.configs.model_config import AttentionArch
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.server_args import ServerArgs

from sglang_multiverse.layout import LAYOUT_VERSION
from sglang_multiverse.patches import arguments
from sglang_multiverse.patches.hooks import Hook, PatchError, apply, problems
from sglang_multiverse.patches.registry import every_hook
from sglang_multiverse.patches.support import argument_problems, model_problems, share_every
from sglang_multiverse.tiny import MODEL_DIR


def server_args(**changes: Any) -> Any:
    return ServerArgs(model_path=str(MODEL_DIR), device="cpu", **changes)


def test_every_target_is_as_expected() -> None:
    assert problems(every_hook()) == []


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
        ({"page_size": 16}, "--page-size 16"),
        ({"attention_backend": "trtllm_mha"}, "--attention-backend trtllm_mha"),
        ({"encoder_urls": ["here", "there"]}, "--encoder-urls here there"),
        ({"attn_dp_size": 2}, "--attn-dp-size 2"),
        ({"enable_unified_memory": True}, "--enable-unified-memory"),
        ({"dcp_size": 2, "attn_cp_size": 2}, "--dcp-size 2, --attn-cp-size 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_served_is_refused_with_a_remedy(changes: dict[str, Any], flag: str) -> None:
    (problem,) = argument_problems(server_args(**changes))
    assert problem.startswith(f"{flag}: ")
    assert "; " in problem


def scheduler_of(**changes: Any) -> SimpleNamespace:
    """What ``model_problems`` reads of a scheduler that serves the tiny model."""
    config = SimpleNamespace(
        hf_config=SimpleNamespace(multiverse={"layout": LAYOUT_VERSION}),
        attention_arch=AttentionArch.MHA,
        is_encoder_decoder=False,
        use_ngram_embedding=False,
        model_is_mrope=False,
    )
    runner = SimpleNamespace(
        sliding_window_size=None,
        prefill_attention_backend_str="torch_native",
        decode_attention_backend_str="torch_native",
    )
    scheduler = SimpleNamespace(
        model_config=config,
        tp_worker=SimpleNamespace(model_runner=runner),
        page_size=1,
        is_hybrid_swa=False,
        is_hybrid_ssm=False,
        is_generation=True,
        dllm_config=None,
        server_args=SimpleNamespace(_multiverse={"options": {}}),
    )
    for part in (config, runner, scheduler):
        for name in changes.keys() & vars(part).keys():
            setattr(part, name, changes[name])
    return scheduler


def test_the_tiny_model_is_served() -> None:
    assert model_problems(scheduler_of()) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"page_size": 64}, "page size 64: pass --page-size 1"),
        ({"is_hybrid_swa": True}, "sliding-window"),
        ({"sliding_window_size": 4096}, "sliding-window"),
        ({"is_hybrid_ssm": True}, "hybrid state-space"),
        ({"attention_arch": AttentionArch.MLA}, "MLA attention"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"use_ngram_embedding": True}, "n-gram"),
        ({"model_is_mrope": True}, "multimodal rotary positions"),
        ({"is_generation": False}, "does not generate"),
        ({"dllm_config": object()}, "diffusion"),
        ({"hf_config": SimpleNamespace(multiverse={"layout": 0})}, "layout rule 0"),
        (
            {
                "hf_config": SimpleNamespace(multiverse={"share_every": 16}),
                "server_args": SimpleNamespace(_multiverse={"options": {"share_every": None}}),
            },
            "share_every=16: start the server with --multiverse-share-every 16",
        ),
        ({"decode_attention_backend_str": "fa4"}, "attention backend fa4"),
        (
            {"prefill_attention_backend_str": "multiverse"},
            "attention backends multiverse and torch_native together",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_loaded_model_shows_is_refused(changes: dict[str, Any], says: str) -> None:
    (problem,) = model_problems(scheduler_of(**changes))
    assert says in problem
    assert ": " in problem


def test_paths_share_as_the_server_says_or_else_as_the_weights_were_trained() -> None:
    shares = {"hf_config": SimpleNamespace(multiverse={"share_every": 16})}
    said = SimpleNamespace(_multiverse={"options": {"share_every": 16}})
    assert model_problems(scheduler_of(**shares)) == []
    assert share_every(scheduler_of(**shares)) == 16
    assert model_problems(scheduler_of(**shares, server_args=said)) == []
    assert share_every(scheduler_of(server_args=said)) == 16
    assert share_every(scheduler_of()) is None
    for flags, told in ((), False), (("--multiverse-share-every", "none"), True):
        assert hasattr(parsed(*flags), "multiverse_share_every") == told
    with pytest.raises(SystemExit, match=r"share_every=0 is no number"):
        arguments.activate(server_args(), ["multiverse"], {"share_every": 0}, None)


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
    args.attention_backend = "multiverse"
    arguments.activate(args, ["multiverse"], {"max_branches": 3}, None, cascade=True)
    assert os.environ[arguments.ACTIVE] == "1"
    again = pickle.loads(pickle.dumps(args))
    assert again._multiverse == {
        "options": {"max_branches": 3},
        "dialect": None,
        "cascade": True,
    }
    arguments.activate(server_args(), [], {}, None)
    assert arguments.ACTIVE not in os.environ


def test_a_bad_option_ends_start_up() -> None:
    with pytest.raises(SystemExit, match="max_branches"):
        arguments.activate(server_args(), ["multiverse"], {"max_branches": -2}, None)


def test_what_belongs_to_the_attention_backend_is_refused_without_it() -> None:
    args = server_args()
    with pytest.raises(SystemExit, match=r"--multiverse-cascade needs --attention-backend"):
        arguments.activate(args, ["multiverse"], {}, None, cascade=True)
    args.attention_backend = "multiverse"
    with pytest.raises(SystemExit, match=r"add --plugin multiverse"):
        arguments.activate(args, [], {}, None)


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
    assert "--page-size 16: siblings would share a partly filled page; pass --page-size 1" in (
        done.stderr
    )
