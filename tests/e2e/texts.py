"""Random canonical texts for the engine to write; they ship with the package."""

from sglang_multiverse.stress.texts import Texts

__all__ = ["Texts"]
