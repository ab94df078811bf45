"""The compatibility tables cover the installed SGLang, are what start-up does, and are the docs."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("sglang", reason="the serve extra is not installed")
os.environ.setdefault("SGLANG_PLATFORM", "torch_cpu")

from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, CompletionRequest
from sglang.srt.managers.io_struct import GenerateReqInput
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.srt.server_args import ServerArgs

from sglang_multiverse.patches.compatibility import (
    ARGUMENTS,
    ENVIRONMENT,
    REFUSED,
    REQUESTS,
    SEQUENTIAL,
    WORKS,
    Arguments,
    Fields,
    argument_problems,
    flag_of,
    refusal,
    resolved_problems,
)
from sglang_multiverse.patches.compatibility.__main__ import page
from sglang_multiverse.patches.compatibility.refusal import defaults
from sglang_multiverse.tiny import MODEL_DIR

ROOT = Path(__file__).parents[2]

BODIES = {
    "generate": [field.name for field in dataclasses.fields(GenerateReqInput)],
    "sampling": list(SamplingParams.__struct_fields__),
    "completions": list(CompletionRequest.model_fields),
    "chat": list(ChatCompletionRequest.model_fields),
}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ENVIRONMENT:
        if variable.outcome == REFUSED:
            monkeypatch.delenv(variable.name, raising=False)


def arguments(**changes: Any) -> SimpleNamespace:
    return SimpleNamespace(**{**defaults(), **changes})


def other_than(default: Any) -> Any:
    """A value that differs from ``default``, of its type where it has one."""
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default + 7
    return [*default, "another"] if isinstance(default, list) else "another"


def named(entry: Arguments) -> str:
    return entry.topic.replace(" ", "-")


def test_every_server_argument_is_in_the_table_once() -> None:
    listed = Counter(name for entry in ARGUMENTS for name in entry.fields)
    installed = set(defaults())
    assert sorted(installed - set(listed)) == [], "new in SGLang: classify them"
    assert sorted(set(listed) - installed) == [], "gone from SGLang"
    assert [name for name, count in listed.items() if count > 1] == []


@pytest.mark.parametrize("body", BODIES)
def test_every_request_field_is_in_the_table_once(body: str) -> None:
    listed = Counter(name for entry in REQUESTS for name in getattr(entry, body).split())
    installed = set(BODIES[body])
    assert sorted(installed - set(listed)) == [], "new in SGLang: classify them"
    assert sorted(set(listed) - installed) == [], "gone from SGLang"
    assert [name for name, count in listed.items() if count > 1] == []


def test_nothing_is_refused_at_its_default() -> None:
    assert argument_problems(arguments()) == []
    assert argument_problems(ServerArgs(model_path=str(MODEL_DIR), device="cpu")) == []


@pytest.mark.parametrize("entry", ARGUMENTS, ids=named)
def test_each_argument_meets_what_the_table_says(entry: Arguments) -> None:
    usual = defaults()
    for name in entry.fields:
        value = other_than(usual[name])
        problems = argument_problems(arguments(**{name: value}))
        if entry.outcome == WORKS:
            assert problems == [], name
            continue
        (problem,) = problems
        flags, _, rest = problem.partition(": ")
        assert flags.split()[0].removeprefix("--no-").removeprefix("--") == (
            flag_of(name).removeprefix("--")
        )
        assert rest == f"{entry.why}; {entry.remedy}"
        assert value in (True, False) or flags.endswith(
            str(value if not isinstance(value, list) else " ".join(value))
        )


@pytest.mark.parametrize("entry", [e for e in ARGUMENTS if e.served], ids=named)
def test_values_that_are_served_are_not_refused(entry: Arguments) -> None:
    for value in entry.served:
        assert argument_problems(arguments(**{entry.fields[0]: value})) == []


def test_entries_say_what_users_need() -> None:
    for entry in ARGUMENTS:
        if entry.outcome == REFUSED:
            assert entry.why and entry.remedy, entry.topic
        else:
            assert entry.outcome == WORKS and (entry.why or entry.test), entry.topic
    for fields in REQUESTS:
        assert fields.outcome in (WORKS, SEQUENTIAL, REFUSED)
        assert fields.why or fields.outcome == WORKS, fields.topic


def test_named_tests_are_there() -> None:
    working: list[Arguments | Fields] = [e for e in ARGUMENTS if e.outcome == WORKS]
    named = {entry.test for entry in [*working, *REQUESTS] if entry.test}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_flags_are_spelled_as_the_command_line_does() -> None:
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    spelled: dict[str, list[str]] = {}
    for action in parser._actions:
        spelled.setdefault(action.dest, []).extend(action.option_strings)
    for name in defaults():
        if name in spelled:
            assert flag_of(name) in spelled[name], name


def test_several_are_named_in_one_message() -> None:
    found = argument_problems(
        arguments(
            enable_lmcache=True, speculative_algorithm="EAGLE", speculative_num_steps=3, pp_size=2
        )
    )
    message = refusal(found)
    assert message.startswith("--plugin multiverse cannot serve this:\n  ")
    assert "--enable-lmcache: not run with forks; leave it out" in message
    assert "--speculative-algorithm EAGLE, --speculative-num-steps 3: " in message
    assert "--pp-size 2: " in message
    assert len(message.splitlines()) == 4


def test_a_feature_that_is_on_by_default_is_refused_when_switched_off() -> None:
    (problem,) = argument_problems(arguments(dllm_fdfo=False))
    assert problem.startswith("--no-dllm-fdfo: ")


@pytest.mark.parametrize("unset", [None, False, "", []])
def test_unset_by_another_name_is_not_refused(unset: Any) -> None:
    assert argument_problems(arguments(enable_lora=unset, lora_paths=unset)) == []


@pytest.mark.parametrize(
    "name", [variable.name for variable in ENVIRONMENT if variable.outcome == REFUSED]
)
def test_variables_are_refused_when_they_are_set(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "0")
    assert argument_problems(arguments()) == []
    monkeypatch.setenv(name, "1")
    (problem,) = argument_problems(arguments())
    assert problem.startswith(f"{name}=1: ")


def test_what_sglang_chooses_for_the_tiny_model_is_served() -> None:
    args = ServerArgs(model_path=str(MODEL_DIR), device="cpu", attention_backend="torch_native")
    args.resolve_once()
    assert resolved_problems(args) == []


def test_what_sglang_chooses_itself_is_refused_too() -> None:
    args = ServerArgs(
        model_path=str(MODEL_DIR),
        device="cpu",
        attention_backend="torch_native",
        kv_cache_dtype="fp8_e5m2",
    )
    args.resolve_once()
    (problem,) = resolved_problems(args)
    assert problem.startswith("SGLang's choice for this model, --kv-cache-dtype fp8_e5m2: ")


def test_the_page_in_the_docs_is_what_the_command_prints() -> None:
    committed = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    assert committed == page(), (
        "python -m sglang_multiverse.patches.compatibility > docs/compatibility.md"
    )
