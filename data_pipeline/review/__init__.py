"""A corpus to people and back: blocks out, judgements in, and how far they agree."""
