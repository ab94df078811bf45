"""``python -m sglang_multiverse.training.grpo``."""

from .run import main

main()
