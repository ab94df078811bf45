"""``python -m sglang_multiverse.tiny.factory``."""

from .train import main

main()
