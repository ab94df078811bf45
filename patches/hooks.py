"""Registering hooks so that one that cannot apply stops the server.

SGLang logs and swallows a hook whose target is gone (``plugins/hook_registry.py``), which would
leave a stock engine that answers as if nothing had happened. Every hook here names the parameters
it relies on; they are compared with the target's before anything is registered.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sglang.srt.plugins.hook_registry import HookRegistry, HookType

from sglang_multiverse import SGLANG_VERSION


class PatchError(RuntimeError):
    """The installed SGLang is not one these patches were made for."""


@dataclass(frozen=True)
class Hook:
    """One hook.

    Attributes:
        target: dotted path of a function or method.
        kind: AROUND, BEFORE or AFTER.
        run: the hook, with the signature its kind asks for.
        parameters: leading parameter names of the target that ``run`` relies on.
    """

    target: str
    kind: HookType
    run: Callable[..., Any]
    parameters: tuple[str, ...]

    def problem(self) -> str | None:
        """Why the hook cannot apply, or None."""
        try:
            function = pkgutil.resolve_name(self.target)
        except (ImportError, AttributeError) as error:
            return f"{self.target} is not there ({error})"
        found = tuple(inspect.signature(inspect.unwrap(function)).parameters)
        if self.target in HookRegistry._patched:
            return None
        if found[: len(self.parameters)] != self.parameters:
            return f"{self.target} takes ({', '.join(found)}), expected {self.parameters} first"
        return None


def problems(hooks: Iterable[Hook]) -> list[str]:
    return [problem for hook in hooks if (problem := hook.problem())]


def apply(hooks: Iterable[Hook]) -> None:
    """Check, register and apply.

    Raises:
        PatchError: a target is missing, has another signature, or was not patched.
    """
    hooks = [hook for hook in hooks if hook.target not in HookRegistry._patched]
    found = problems(hooks)
    if found:
        raise PatchError(
            f"sglang-multiverse is made for SGLang {SGLANG_VERSION} and cannot hook into the one "
            f"installed here: {'; '.join(found)}. Install sglang=={SGLANG_VERSION}, or leave out "
            "--plugin multiverse."
        )
    for hook in hooks:
        HookRegistry.register(hook.target, hook.run, hook.kind)
    HookRegistry.apply_hooks()
    missing = [hook.target for hook in hooks if hook.target not in HookRegistry._patched]
    if missing:
        raise PatchError(f"hooks did not apply: {', '.join(missing)}; the log above says why")
