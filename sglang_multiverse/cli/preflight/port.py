"""Whether a server can listen where it is asked to."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from .problem import Problem


def port(host: str, number: str) -> Iterator[Problem]:
    """``number`` is as it was typed."""
    if not number.isdecimal() or not 1 <= int(number) <= 65535:
        yield Problem(f"--port {number} is no port", "choose a number from 1 to 65535")
        return
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, int(number), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        yield Problem(
            f"--host {host} is no address of this machine ({error})",
            "127.0.0.1 is one, 0.0.0.0 all",
        )
        return
    try:
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            sock.bind(address)
            sock.listen()
    except PermissionError:
        yield Problem(f"port {number} of {host} is for the superuser alone", "choose --port 30000")
    except OSError as error:
        yield Problem(
            f"port {number} of {host} cannot be had ({error.strerror})",
            f"choose another: --port {_free(host)} is free",
        )


def _free(host: str) -> int:
    with socket.socket() as sock:
        try:
            sock.bind((host, 0))
        except OSError:
            sock.bind(("", 0))
        number: int = sock.getsockname()[1]
        return number
