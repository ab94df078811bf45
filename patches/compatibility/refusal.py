"""Start-up's refusals, read off the tables."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

from sglang.srt.arg_groups.arg_utils import record_fields
from sglang.srt.server_args import ServerArgs

from .entry import REFUSED, Arguments
from .environment import ENVIRONMENT
from .server_arguments import ARGUMENTS

#: Flags that are not their field's name in kebab-case.
_SPELLED = {
    "ep_join_mode": "--elastic-ep-join-mode",
    "ep_join_rank_offset": "--elastic-ep-join-rank-offset",
    "fp4_gemm_runner_backend": "--fp4-gemm-backend",
    "fp8_gemm_runner_backend": "--fp8-gemm-backend",
}

#: Fields SGLang itself may set to what is refused, by the model or the device.
_CHOSEN_BY_SGLANG = (
    "attn_cp_size",
    "attn_dp_size",
    "enable_cp_tp_group_sharing",
    "kv_cache_dtype",
    "prefill_decode_interval",
)


def flag_of(name: str) -> str:
    """The field as it is typed: ``page_size`` → ``--page-size``."""
    return _SPELLED.get(name, "--" + name.replace("_", "-"))


@functools.cache
def defaults() -> dict[str, Any]:
    """Every field of the installed ``ServerArgs`` and its default; required ones map to None."""
    from msgspec import NODEFAULT

    found: dict[str, Any] = {}
    for field in record_fields(ServerArgs):
        if field.default is not NODEFAULT:
            found[field.name] = field.default
        elif field.default_factory is not NODEFAULT:
            found[field.name] = field.default_factory()
        else:
            found[field.name] = None
    return found


def argument_problems(args: Any) -> list[str]:
    """Why these server arguments and this environment cannot be served with fork and join.

    One line for each entry of the tables that is hit: the flags as they are typed, why, and the
    remedy.
    """
    given = [_problem(entry, entry.fields, lambda name: getattr(args, name)) for entry in ARGUMENTS]
    switched_on = [
        f"{variable.name}={os.environ[variable.name]}: {variable.why}; {variable.remedy}"
        for variable in ENVIRONMENT
        if variable.outcome == REFUSED and _is_set(os.environ.get(variable.name))
    ]
    return [problem for problem in given if problem] + switched_on


def resolved_problems(server_args: Any) -> list[str]:
    """The same for what SGLang chose by itself for this model and device."""
    from sglang.srt.arg_groups.overrides import resolution_result

    found = []
    for entry in ARGUMENTS:
        names = [name for name in entry.fields if name in _CHOSEN_BY_SGLANG]
        problem = _problem(entry, names, lambda name: resolution_result(server_args, name))
        if problem:
            found.append(f"SGLang's choice for this model, {problem}")
    return found


def refusal(problems: list[str]) -> str:
    """One message of all problems."""
    if len(problems) == 1:
        return f"--plugin multiverse cannot serve this: {problems[0]}"
    return "\n  ".join(["--plugin multiverse cannot serve this:", *problems])


def _problem(entry: Arguments, names: Iterable[str], value_of: Callable[[str], Any]) -> str | None:
    if entry.outcome != REFUSED:
        return None
    usual = defaults()
    hit = [
        _typed(name, value_of(name), usual[name])
        for name in names
        if not _harmless(value_of(name), usual[name], entry.served)
    ]
    return f"{', '.join(hit)}: {entry.why}; {entry.remedy}" if hit else None


def _harmless(value: Any, default: Any, served: tuple[Any, ...]) -> bool:
    return value is None or value == default or value in served or (not value and not default)


def _typed(name: str, value: Any, default: Any) -> str:
    flag = flag_of(name)
    if value is True:
        return flag
    if value is False and default is True:
        return flag.replace("--", "--no-", 1)
    if isinstance(value, list | tuple | set):
        value = " ".join(map(str, value))
    return f"{flag} {value}"


def _is_set(value: str | None) -> bool:
    return value is not None and value.lower() not in ("", "0", "false", "no", "n")
