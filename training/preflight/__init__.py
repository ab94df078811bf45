"""What is found out before the first step: by training itself, and more by a dry run."""

from .checks import check_trainer
from .report import warnings_of

__all__ = ["check_trainer", "warnings_of"]
