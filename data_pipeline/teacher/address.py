"""What may be told of an endpoint's address: the name of a public host, and nothing else."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

#: Last parts of names that no public resolver knows.
_LOCAL = frozenset(
    ["corp", "home", "internal", "intranet", "lan", "local", "localdomain", "localhost", "private"]
)
_ADDRESS = re.compile(r"https?://[^\s'\"<>`]+")


def public_host(url: str) -> str | None:
    """The host of ``url``; None where it is a local one, by its name or number."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return None
    try:
        return host if ipaddress.ip_address(host).is_global else None
    except ValueError:
        name = host.rstrip(".")
    return name if "." in name and name.rpartition(".")[2] not in _LOCAL else None


def without_addresses(text: str) -> str:
    """``text`` with every address in it cut to its public host."""
    return _ADDRESS.sub(lambda found: public_host(found.group()) or "(local address)", text)
