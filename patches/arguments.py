"""``--plugin`` and ``--multiverse-…`` on every way to start SGLang.

Targets: ``ServerArgs.add_cli_args``, ``ServerArgs.from_cli_args`` and ``Engine.server_args_class``.
``ServerArgs`` is a sealed struct: no field can be added, but an attribute with a leading underscore
travels with it to every process. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from importlib import metadata
from typing import Any

from sglang.srt.plugins.hook_registry import HookType

from sglang_multiverse import SGLANG_VERSION

from ..dialect import SPECS
from ..engine.options import STRUCTURE, EngineOptions, OptionError
from ..platform import not_asked_for
from ..view.live import PATH
from . import attention
from .answers import parsers
from .compatibility import argument_problems, refusal
from .hooks import Hook, PatchError
from .view import NO_VIEW

NAME = "multiverse"
#: Tells the processes a server starts that they are to be armed.
ACTIVE = "SGLANG_MULTIVERSE_ACTIVE"
PAGED = "SGLANG_FLASHINFER_USE_PAGED"
#: The application that tokenizer workers import; they load no plugins.
APP = "SGLANG_HTTP_SERVER_APP_PATH"
WORKER_APP = "sglang_multiverse.patches.http_worker:app"

_SERVER_ARGS = "sglang.srt.server_args.ServerArgs"
_SHARE = "share_every"
#: Those without a flag, and the one whose default is what the weights record.
_NO_FLAGS = ("enabled", "events", _SHARE)
_OPTIONS = tuple(field.name for field in fields(EngineOptions) if field.name not in _NO_FLAGS)
_LIMITS = ("max_branches", "max_depth", "max_live_rows", "max_critical_path")
_HELP = {
    "max_branches": "most paths of one block; a goal with more goes on sequentially",
    "max_depth": "most blocks around one token; a deeper goal goes on sequentially",
    "max_live_rows": "most paths of one request decoding at a time; the others wait their turn",
    "max_critical_path": "most generated tokens on the longest chain of visible tokens",
}
_POLICY = (
    "when waiting paths start: 'eager' at once; 'cap:N' at most N of one request decode at a time; "
    "'load:N' beyond a request's first, only while the running batch holds fewer than N rows"
)


def _limit(text: str) -> int | None:
    return None if text == "none" else int(text)


def _add_cli_args(result: Any, parser: argparse.ArgumentParser) -> None:
    defaults = EngineOptions()
    group = parser.add_argument_group("plugins")
    group.add_argument(
        "--plugin",
        action="append",
        choices=[NAME],
        default=None,
        help="activate an installed plugin; 'multiverse' serves fork/join models",
    )
    group.add_argument(
        "--multiverse-dialect",
        choices=[spec.name for spec in SPECS],
        default=None,
        help="the tags of the checkpoint (default: found from its tokenizer)",
    )
    for name in _LIMITS:
        group.add_argument(
            f"--multiverse-{name.replace('_', '-')}",
            type=_limit,
            default=getattr(defaults, name),
            metavar="N|none",
            help=f"{_HELP[name]} (default: {getattr(defaults, name)})".replace("None", "none"),
        )
    group.add_argument(
        "--multiverse-policy",
        default=defaults.policy,
        metavar="eager|cap:N|load:N",
        help=f"{_POLICY} (default: {defaults.policy})",
    )
    group.add_argument(
        "--multiverse-tag-guard",
        action="store_true",
        default=defaults.tag_guard,
        help="mask the logits of tags where the grammar does not allow them",
    )
    group.add_argument(
        "--multiverse-cascade",
        action="store_true",
        help="with --attention-backend multiverse on CUDA: siblings read the prefix they share "
        "once per decode step, where that pays; such steps run without a CUDA graph",
    )
    group.add_argument(
        "--multiverse-share-every",
        type=_limit,
        default=argparse.SUPPRESS,
        metavar="K|none",
        help="paths see one another's tokens after every K of their own, as in training with "
        "share_every; goals inside paths then do not fork (default: what the weights record)",
    )
    group.add_argument(
        "--multiverse-no-view",
        action="store_true",
        help=f"do not serve the live page at {PATH}",
    )
    group.add_argument(
        "--multiverse-structure",
        choices=STRUCTURE,
        default=defaults.structure,
        help="where in a prompt tags are structure: in an assistant's turns of the chat template, "
        f"everywhere, or nowhere (default: {defaults.structure})",
    )


def _from_cli_args(result: Any, cls: Any, args: argparse.Namespace) -> Any:
    plugins = getattr(args, "plugin", None) or []
    options = {name: getattr(args, f"multiverse_{name}") for name in _OPTIONS}
    if hasattr(args, f"multiverse_{_SHARE}"):
        options[_SHARE] = args.multiverse_share_every
    activate(
        result,
        plugins,
        options,
        args.multiverse_dialect,
        cascade=args.multiverse_cascade,
        page=not args.multiverse_no_view,
    )
    _runs_here(result, plugins)
    return result


def _runs_here(server_args: Any, plugins: list[str]) -> None:
    """Raises SystemExit: there is no accelerator, and nothing was chosen instead."""
    refused = not_asked_for(server_args.device) if NAME in plugins else None
    if refused:
        raise SystemExit(f"--plugin {NAME}: {refused}")


def activate(
    server_args: Any,
    plugins: list[str],
    options: dict[str, Any],
    dialect: str | None,
    *,
    cascade: bool = False,
    page: bool = True,
) -> None:
    """Record on ``server_args`` what was asked for, check it, and arm this process.

    Raises:
        SystemExit: what was asked for cannot be served; nothing has been started.
    """
    if server_args.reasoning_parser == parsers.NAME:
        parsers.install()
    if NAME not in plugins:
        if os.environ.pop(ACTIVE, None):
            os.environ.pop(PAGED, None)
            if os.environ.get(APP) == WORKER_APP:
                del os.environ[APP]
        if attention.asked(server_args):
            raise SystemExit(
                f"--attention-backend {attention.NAME} belongs to the plugin: add --plugin {NAME}, "
                "or choose another backend"
            )
        return
    try:
        installed = metadata.version("sglang")
        if installed != SGLANG_VERSION:
            raise PatchError(
                f"--plugin multiverse is verified on SGLang {SGLANG_VERSION}, and {installed} is "
                f"installed: pip install 'sglang=={SGLANG_VERSION}'"
            )
        EngineOptions(**options)
        if os.environ.get(APP, WORKER_APP) != WORKER_APP and server_args.tokenizer_worker_num > 1:
            raise PatchError(
                f"--tokenizer-worker-num {server_args.tokenizer_worker_num} with {APP}="
                f"{os.environ[APP]}: the workers need {WORKER_APP}; unset the variable"
            )
        found = argument_problems(server_args)
        if found:
            raise PatchError(refusal(found))
        if cascade and not attention.asked(server_args):
            raise PatchError(
                "--multiverse-cascade needs --attention-backend multiverse: add it, or leave the "
                "cascade out"
            )
        if page:
            os.environ.pop(NO_VIEW, None)
        else:
            os.environ[NO_VIEW] = "1"
        from .http_process import arm

        arm()
    except (OptionError, PatchError) as error:
        raise SystemExit(str(error)) from error
    server_args._multiverse = {"options": options, "dialect": dialect, "cascade": cascade}
    os.environ[ACTIVE] = "1"
    # Fork and join need K and V written before attention; the ragged prefill attends first.
    os.environ[PAGED] = "1"
    os.environ.setdefault(APP, WORKER_APP)


def engine_server_args(**kwargs: Any) -> Any:
    """``ServerArgs`` of ``sgl.Engine(plugin="multiverse", multiverse_max_branches=…, …)``."""
    from sglang.srt.server_args import ServerArgs

    plugin = kwargs.pop("plugin", None) or []
    plugins = [plugin] if isinstance(plugin, str) else list(plugin)
    unknown = [name for name in plugins if name != NAME]
    if unknown:
        raise ValueError(f"unknown plugin(s) {', '.join(unknown)}; this one is {NAME!r}")
    dialect = kwargs.pop("multiverse_dialect", None)
    cascade = kwargs.pop("multiverse_cascade", False)
    page = not kwargs.pop("multiverse_no_view", False)
    defaults = EngineOptions()
    options = {name: kwargs.pop(f"multiverse_{name}", getattr(defaults, name)) for name in _OPTIONS}
    if f"multiverse_{_SHARE}" in kwargs:
        options[_SHARE] = kwargs.pop(f"multiverse_{_SHARE}")
    server_args = ServerArgs(**kwargs)
    try:
        activate(server_args, plugins, options, dialect, cascade=cascade, page=page)
        _runs_here(server_args, plugins)
    except SystemExit as error:
        raise ValueError(str(error)) from error
    return server_args


HOOKS = (
    Hook(f"{_SERVER_ARGS}.add_cli_args", HookType.AFTER, _add_cli_args, ("parser",)),
    Hook(f"{_SERVER_ARGS}.from_cli_args", HookType.AFTER, _from_cli_args, ("args",)),
)
