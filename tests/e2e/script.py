"""The logit processor that makes a served model write a text; it ships with the package."""

from sglang_multiverse.stress.scripted import Forced, key_of, read_rows, soup_token, starts

__all__ = ["Forced", "key_of", "read_rows", "soup_token", "starts"]
