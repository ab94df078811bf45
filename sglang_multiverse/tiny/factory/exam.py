"""How well the tiny model does on problems it has not seen, without an engine.

Greedy decoding writes the worked answer word for word exactly where, given the text so far, the
most likely token is the right one at every place that the model writes. So one forward pass over
the finished texts says for each problem whether the model would write it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import islice
from statistics import mean

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ...dialect import Dialect
from ...parallelism import parallelism
from ...structure import parse
from ...training.attention import enable_multiverse_attention
from ...training.collator import IGNORED, MultiverseCollator, Variant
from ...training.decode import fork_join_decode
from .. import MODEL_DIR
from ..dataset import messages
from ..task import Mode, Problem, generate, grade

Row = Mapping[str, list[dict[str, str]]]


def encode(
    problem: Problem, mode: Mode, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[int]]:
    """Token ids of the prompt as served, and of the answer up to the end of the turn."""
    return encode_row(messages(problem, mode), tokenizer)


def encode_row(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The same of a row of ``prompt`` and ``completion``, a message or more each."""
    asked = tokenizer.apply_chat_template(
        list(row["prompt"]), tokenize=False, add_generation_prompt=True
    )
    answer = row["completion"][0]["content"] + str(tokenizer.eos_token)
    return (
        tokenizer.encode(asked, add_special_tokens=False),
        tokenizer.encode(answer, add_special_tokens=False),
    )


def written(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    mode: Mode,
    batch_size: int = 32,
) -> list[int]:
    """For each problem the number of tokens of its worked answer that are not the model's first
    choice: 0 where a greedy decode writes the answer word for word."""
    enable_multiverse_attention(model)
    return word_for_word(
        model, tokenizer, [messages(one, mode) for one in problems], batch_size=batch_size
    )


@torch.no_grad()
def word_for_word(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    variant: Variant = "multiverse",
    batch_size: int = 32,
) -> list[int]:
    """For each row the tokens of its answer that are not the model's first choice under the layout
    of ``variant``; the model attends by order."""
    dialect = Dialect.from_tokenizer(tokenizer)
    collator = MultiverseCollator(
        pad_token_id=tokenizer.pad_token_id, dialect=dialect, variant=variant
    )
    texts = [encode_row(row, tokenizer) for row in rows]
    turns = sorted(range(len(texts)), key=lambda i: sum(map(len, texts[i])))
    wrong = [0] * len(texts)
    was_training = model.training
    model.eval()
    for at in range(0, len(turns), batch_size):
        chosen = turns[at : at + batch_size]
        batch = collator(
            [
                {"input_ids": [*p, *a], "labels": [IGNORED] * len(p) + a}
                for p, a in (texts[i] for i in chosen)
            ]
        )
        labels = batch.pop("labels")[:, 1:].to(model.device)
        batch = {key: value.to(model.device) for key, value in batch.items()}
        guess = model(**batch, use_cache=False).logits[:, :-1].argmax(-1)
        misses = ((guess != labels) & (labels != IGNORED)).sum(-1).tolist()
        for i, missed in zip(chosen, misses, strict=True):
            wrong[i] = int(missed)
    model.train(was_training)
    return wrong


def report(model_dir: str, count: int, decode: int, seed: int) -> None:
    """Print accuracy in both modes and mean parallelism of the model in ``model_dir``."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, attn_implementation="sdpa"
    )
    dialect = Dialect.from_tokenizer(tokenizer)
    problems = list(islice(generate(seed, "test"), count))
    modes: tuple[Mode, ...] = ("parallel", "sequential")
    for mode in modes:
        wrong = written(model, tokenizer, problems, mode)
        right = sum(n == 0 for n in wrong)
        print(f"{mode}: {right}/{count} worked answers written word for word", flush=True)
        if mode == "parallel":
            measured = []
            for problem in problems:
                asked, answer = encode(problem, mode, tokenizer)
                trace = parse([*asked, *answer], dialect, strict=True)
                measured.append(parallelism(trace, prompt_tokens=len(asked)))
            print(
                f"  degree of parallelism of these texts: {mean(m.degree for m in measured):.2f}, "
                f"of those with blocks: {mean(m.degree for m in measured if m.blocks):.2f}"
            )
        if decode:
            some = problems[:decode]
            prompts = [encode(problem, mode, tokenizer)[0] for problem in some]
            answers = fork_join_decode(model, prompts, dialect, eos=tokenizer.eos_token_id)
            texts = [tokenizer.decode(ids) for ids, _ in answers]
            right = sum(map(grade, texts, some))
            ratio = sum(len(ids) for ids, _ in answers) / sum(steps for _, steps in answers)
            print(f"  decoded: {right}/{decode} answers right, {ratio:.2f} tokens a step")


def main() -> None:
    parser = argparse.ArgumentParser(description="Examine the tiny model on unseen problems.")
    parser.add_argument("--model", default=str(MODEL_DIR), help="folder of the model")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--decode", type=int, default=0, help="also decode this many (slow)")
    parser.add_argument("--seed", type=int, default=1, help="of the problems")
    options = parser.parse_args()
    report(options.model, options.problems, options.decode, options.seed)


if __name__ == "__main__":
    main()
