"""A tiny real model that forks, and the task it was trained on. See ``model/README.md``."""

from pathlib import Path

#: The checkpoint that ships with the package.
MODEL_DIR = Path(__file__).parent / "model"
