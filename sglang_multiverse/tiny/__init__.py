"""Two tiny real models that fork, and the tasks they were trained on. See their ``README.md``."""

from pathlib import Path

#: The model of :mod:`.task`, which ``multiverse serve`` serves and the tests use.
MODEL_DIR = Path(__file__).parent / "model"
#: The model of :mod:`.machines`, which ``multiverse demo`` asks.
MACHINES_DIR = Path(__file__).parent / "machines_model"
