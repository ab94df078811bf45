"""The ``multiverse`` attention backend: extends over structured text in one row."""

from .cascade_plan import CascadePlan, cascade_pays, cascade_plan
from .plan import Extend, ExtendPlan, plan

__all__ = [
    "CascadePlan",
    "Extend",
    "ExtendPlan",
    "cascade_pays",
    "cascade_plan",
    "plan",
]
