"""What may be told of an endpoint: of its address the name of a public host, of its key nothing."""

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


def blotted(text: str, key: str) -> str:
    """``text`` without ``key``, which an endpoint may echo. A key that may be a word of any text
    (``EMPTY``, ``token``) is none."""
    mixed = any(map(str.isdigit, key)) and any(map(str.isalpha, key))
    return text.replace(key, "SECRET") if len(key) >= (8 if mixed else 16) else text
