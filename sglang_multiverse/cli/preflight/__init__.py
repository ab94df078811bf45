"""What can be known before anything heavy is imported: checks of ``serve``, ``demo``, ``doctor``.

Each check yields the :class:`Problem` it finds. All of them together take milliseconds, where
SGLang needs a minute to come to the same place.
"""

from .checkpoint import checkpoint, context_length
from .machine import folders, operating_system
from .port import port
from .problem import Problem, refuse

__all__ = [
    "Problem",
    "checkpoint",
    "context_length",
    "folders",
    "operating_system",
    "port",
    "refuse",
]
