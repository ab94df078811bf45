from __future__ import annotations

import pytest

pytest.importorskip("sglang", reason="the serve extra is not installed")


@pytest.fixture(scope="session")
def speech():
    """The tiny model's tokenizer, with tokens that can be forced."""
    from transformers import AutoTokenizer

    from sglang_multiverse.dialect import Dialect
    from sglang_multiverse.stress.bodies import Speech
    from sglang_multiverse.stress.scripted import Forced
    from sglang_multiverse.tiny import MODEL_DIR

    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    return Speech(tokenizer, Dialect.from_tokenizer(tokenizer), Forced.to_str())
