"""Every field of SGLang 0.5.23's ``ServerArgs``: served with fork and join, or refused.

To serve what is refused, change the entry's outcome to WORKS once its test has run it.
"""

from __future__ import annotations

from .process_arguments import PROCESS_ARGUMENTS
from .scheduler_arguments import SCHEDULER_ARGUMENTS

ARGUMENTS = (*SCHEDULER_ARGUMENTS, *PROCESS_ARGUMENTS)
