"""``python -m sglang_multiverse.cli`` is ``multiverse``."""

from . import app

app()
