"""What becomes of each SGLang argument and request field once requests fork and join.

The tables in ``server_arguments.py``, ``request_fields.py`` and ``environment.py`` are the only
list: start-up refuses by them (:func:`argument_problems`), and ``python -m
sglang_multiverse.patches.compatibility`` prints them as docs/compatibility.md. Verified on SGLang
0.5.23.
"""

from __future__ import annotations

from .entry import REFUSED, SEQUENTIAL, WORKS, Arguments, Fields, Variable
from .environment import ENVIRONMENT
from .refusal import argument_problems, flag_of, refusal, resolved_problems
from .request_fields import REQUESTS
from .server_arguments import ARGUMENTS

__all__ = [
    "ARGUMENTS",
    "ENVIRONMENT",
    "REFUSED",
    "REQUESTS",
    "SEQUENTIAL",
    "WORKS",
    "Arguments",
    "Fields",
    "Variable",
    "argument_problems",
    "flag_of",
    "refusal",
    "resolved_problems",
]
