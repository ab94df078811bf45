"""Every hook there is, by the process it belongs to: one list for start-up, doctor and tests.

Modules are imported when asked for: those of the scheduler take seconds, and belong to its process.
"""

from __future__ import annotations

from .hooks import Hook


def scheduler_hooks() -> list[Hook]:
    """In each process that runs a scheduler."""
    from . import attention
    from .answers import grammar, prompt_logprobs, reasoning_tokens, stream
    from .reporting import report
    from .rows import forward, guard, last_resort
    from .scheduling import admission, batch, deadlines, new_weights, prefix_cache, scheduler

    modules = (
        *(scheduler, admission, batch, deadlines, prefix_cache, new_weights),
        *(forward, guard, last_resort),
        *(grammar, stream, prompt_logprobs, reasoning_tokens),
        *(report, attention),
    )
    return [hook for module in modules for hook in module.HOOKS]


def tokenizer_hooks() -> list[Hook]:
    """In every process of a server with the plugin that loads a tokenizer."""
    from .answers import tokenizer

    return [*tokenizer.HOOKS]


def http_hooks() -> list[Hook]:
    """In the process that serves HTTP, and in each of its tokenizer workers."""
    from . import http_process

    return [*http_process.HOOKS]


def start_hooks() -> list[Hook]:
    """Wherever the package is installed: options, and nothing else."""
    from . import arguments

    return [*arguments.HOOKS]


def every_hook() -> list[Hook]:
    return [*start_hooks(), *tokenizer_hooks(), *http_hooks(), *scheduler_hooks()]
