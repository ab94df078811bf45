"""The tiny model's tokenizer: byte-level BPE, every digit and line break a token of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from ...dialect import MULTIVERSE, DialectSpec

PAD, USER, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

#: What merges are learnt from: a word with the blank before it, or a sign with it; digits and line
#: breaks stand alone, so numbers are copied digit by digit and ``1:`` is a number and a colon.
#: Qwen2's own pieces are wider, but no merge reaches over the edges of these.
_PIECES = r"\n|\d| ?[A-Za-z]+| ?[^\sA-Za-z0-9]|\s"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_tokenizer(
    texts: Iterable[str],
    *,
    vocab_size: int = 448,
    words: Sequence[str] = (),
    spec: DialectSpec = MULTIVERSE,
) -> Qwen2Tokenizer:
    """Learn merges from ``texts``; any other text still encodes, byte by byte.

    Args:
        words: texts that are one token wherever they stand.

    The class is the architecture's own: ``AutoTokenizer`` takes it for every Qwen2 checkpoint.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, USER, END, *spec.tags],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    learnt = json.loads(tokenizer.to_str())["model"]
    made = Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(pair) for pair in learnt["merges"]],
        unk_token=None,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[USER],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    # Not special: the tags are text of the answer, whatever skip_special_tokens says.
    made.add_tokens([AddedToken(text, normalized=False) for text in [*spec.tags, *words]])
    return made
