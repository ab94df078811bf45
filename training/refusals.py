"""How training says that it cannot: one line, with what was wrong, where, and what to do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

logger = logging.getLogger(__name__)


class ConfigError(ValueError):
    """A config that cannot be found or read, or settings that contradict one another."""


#: What a user can cause and remedy. Anything else, once training runs, is a fault of the program.
USER_ERRORS = (ValueError, OSError, ImportError, NotImplementedError, torch.OutOfMemoryError)


def in_a_line(error: BaseException) -> str:
    """What ``error`` says, on one line; of an error in a data worker, its own last line."""
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"the GPU's memory is full ({_flat(str(error).split('. ')[0])}): lower "
            "per_device_train_batch_size or max_length, or shard over more GPUs; --dry_run "
            "estimates the need"
        )
    text = str(error).strip()
    if "Original Traceback" in text:
        text = text.splitlines()[-1].partition(": ")[2] or text.splitlines()[-1]
    if not text:
        return type(error).__name__
    if isinstance(error, KeyError):
        return f"{type(error).__name__}: {_flat(text)}"
    return _flat(text)


@contextmanager
def told(doing: str, remedy: str, kind: type[ValueError] = ConfigError) -> Iterator[None]:
    """Errors of the libraries become a ``kind`` that says what was being done and what to do.

    Our own errors, which say so already, pass. The traceback goes to the debug log.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, USER_ERRORS) and _ours(error):
            raise
        logger.debug("%s: %s", doing, error, exc_info=True)
        cause = error.__cause__ or error
        raise kind(f"{doing}: {in_a_line(cause)[:600].rstrip('.')}; {remedy}") from error


def _ours(error: BaseException) -> bool:
    return type(error).__module__.startswith("sglang_multiverse.")


def _flat(text: Any) -> str:
    return " ".join(str(text).split())
