"""Optional parts of this package: what is missing, and how to install it."""

from __future__ import annotations

from importlib.util import find_spec


class MissingExtra(ImportError):
    """A package is missing that an extra of this package installs; the message says which."""


def install(extra: str) -> str:
    """The command that installs ``extra``. Print it as it is: rich reads ``[…]`` as markup."""
    return f"pip install 'sglang-multiverse[{extra}]'"


def missing(packages: str, extra: str) -> str:
    """The one message for packages that are not there."""
    return f"this needs {packages}: {install(extra)}"


def require(extra: str, *packages: str) -> None:
    """Look for ``packages`` without importing them.

    Raises:
        MissingExtra: some are not there.
    """
    absent = [name for name in packages if not find_spec(name)]
    if absent:
        raise MissingExtra(missing(", ".join(absent), extra))
