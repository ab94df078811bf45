"""The model of :mod:`..machines`: its tokenizer, its shape, and one way to train it.

``python -m sglang_multiverse.tiny.factory.machines --out DIR [--minutes 45]`` makes the model that
``multiverse demo`` asks; ``benchmarks/replication.py`` trains its arms by the same :func:`train`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    GenerationConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    TrainerCallback,
)
from transformers.trainer_utils import get_last_checkpoint

from ...curriculum import STAGES, curriculum
from ...training.modes import to_autoregressive, with_prompt_mode
from ...training.trainer import MultiverseSFTConfig, MultiverseSFTTrainer
from ..machines import (
    COUNTS,
    MACHINES,
    NAMES,
    NUMBERS,
    PAIRS,
    ROUNDS,
    TABLES,
    Asks,
    Question,
    Run,
    comparison,
    ended,
    prompt,
    questions,
    solution,
)
from ..task import Mode, Split
from .exam import word_for_word
from .muon import MuonAdamW, fast_bfloat16
from .tokenizer import build_tokenizer
from .train import Clock

#: Longest text: four pairs of runs in nested blocks, with the question.
MAX_LENGTH = 3072
#: Questions whose texts the tokenizer's merges are learnt from.
TOKENIZER_QUESTIONS = 200

EASY_ROUNDS = (1, 3)
#: Rows that one process encodes in the time it takes to start others.
FEW = 3000
#: What something is looked up by, besides machines and numbers.
KEYS = (*NAMES, *NAMES.upper(), *PAIRS)

#: What a row asks for: its mode, and whether its runs come in pairs.
Kind = tuple[Mode, bool]


def machines_tokenizer() -> Qwen2Tokenizer:
    """The tokenizer of the task's texts; every number is one token."""
    asked = [
        question
        for nested, counts in ((False, COUNTS), (True, (2, 4)))
        for question in islice(
            questions(0, "train", counts=counts, nested=nested), TOKENIZER_QUESTIONS
        )
    ]
    texts = (
        text
        for question in asked
        for mode in ("parallel", "sequential")
        for text in (prompt(question, mode), solution(question, mode), "user\nassistant\nsystem")
    )
    numbers = [f" {number}" for number in range(NUMBERS)]
    tokenizer = build_tokenizer(texts, words=numbers)
    tokenizer.model_max_length = MAX_LENGTH
    return tokenizer


def machines_model(tokenizer: Qwen2Tokenizer, seed: int, layers: int = 4) -> Qwen2ForCausalLM:
    """A Qwen2 of a million parameters, freshly initialised."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.05,
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model


def row(question: Question, mode: Mode) -> dict[str, Any]:
    """One row of training data: ``prompt`` and ``completion``, each a list of one message."""
    return {
        "prompt": [{"role": "user", "content": prompt(question, mode)}],
        "completion": [{"role": "assistant", "content": solution(question, mode)}],
    }


def rows(
    seed: int,
    steps: int,
    batch: int,
    kinds: dict[Kind, float],
    split: Split = "train",
    easy_steps: int = 0,
    asks: Asks = "highest",
) -> list[dict[str, Any]]:
    """Rows for ``steps`` batches, in training order.

    All texts of a batch have as many runs, so that none is padded much. Numbers of runs come in
    turn; more steps only add rows after those of fewer.

    Args:
        kinds: weight of each kind of row.
        easy_steps: batches of short runs that come first.
    """
    rng = random.Random(f"rows-{seed}")
    sources: dict[tuple[Any, ...], Iterator[Question]] = {}
    ordered: list[dict[str, Any]] = []
    for step in range(steps):
        rounds = EASY_ROUNDS if step < easy_steps else ROUNDS
        count = COUNTS[step % len(COUNTS)]
        for _ in range(batch):
            mode, nested = rng.choices(list(kinds), list(kinds.values()))[0]
            # Two runs cannot stand in two pairs: with nested ones the least is four.
            number = max(count // 2, 2) if nested else count
            key = nested, number, rounds
            if key not in sources:
                sources[key] = questions(
                    seed, split, counts=(number,), nested=nested, rounds=rounds, asks=asks
                )
            ordered.append(row(next(sources[key]), mode))
    return ordered


def _repeat(rng: random.Random) -> dict[str, Any]:
    """A row that asks for words and numbers to be said again: every one is looked up."""
    kinds = rng.choices((MACHINES, KEYS, range(NUMBERS)), (1, 1, 2), k=rng.randint(40, 90))
    text = " ".join(["Repeat:", *(str(rng.choice(kind)) for kind in kinds)])
    return {
        "prompt": [{"role": "user", "content": text}],
        "completion": [{"role": "assistant", "content": text}],
    }


def _find(rng: random.Random) -> dict[str, Any]:
    """A row that asks for runs and ends by their names, in another order than they are given in."""
    machines = rng.sample(MACHINES, rng.randint(2, len(MACHINES)))
    given = []
    for i, (name, machine) in enumerate(zip(NAMES, machines, strict=False)):
        start, rounds, end = (rng.randrange(NUMBERS) for _ in range(3))
        given += [str(Run(name, machine, start, rounds)), f"{name.upper()} {end}"]
        given += [f"{PAIRS[i // 2]} {name.upper()} {end}"] * (i % 2)
    mixed = rng.choices(given, k=12)
    return {
        "prompt": [{"role": "user", "content": f"Find {', '.join(given)}"}],
        "completion": [{"role": "assistant", "content": f"Found {', '.join(mixed)}"}],
    }


def _compare(rng: random.Random) -> dict[str, Any]:
    """A row that asks for the highest of several ends, one after another."""
    given, said = [], []
    for _ in range(4):
        count = rng.randint(2, len(NAMES))
        ends = rng.sample(range(NUMBERS), count)
        runs = [Run(name, MACHINES[0], end, 0) for name, end in zip(NAMES, ends, strict=False)]
        keys = PAIRS if count <= len(PAIRS) and rng.random() < 0.3 else ["end"] * count
        given.append(" ".join(map(ended, runs)))
        said.append(comparison(keys, runs))
    return {
        "prompt": [{"role": "user", "content": f"Compare {', '.join(given)}"}],
        "completion": [{"role": "assistant", "content": "\n\n".join(said)}],
    }


def _apply(rng: random.Random) -> dict[str, Any]:
    """A row that asks what machines make of numbers, in the words of a line of a run."""
    given = [(rng.choice(MACHINES), rng.randrange(NUMBERS)) for _ in range(12)]
    said = [
        f"left {rng.randint(1, ROUNDS[1])}: {machine} {number} gives {after}, so go on with {after}"
        for machine, number in given
        for after in [TABLES[machine][number]]
    ]
    asked = ", ".join(f"{machine} {number}" for machine, number in given)
    return {
        "prompt": [{"role": "user", "content": f"Apply {asked}"}],
        "completion": [{"role": "assistant", "content": "\n".join(said)}],
    }


def _mixed(rng: random.Random) -> dict[str, Any]:
    """A row of one of these kinds, half of them comparisons."""
    return rng.choices((_repeat, _find, _compare), (1, 1, 2))[0](rng)


def _tables(rng: random.Random) -> dict[str, Any]:
    """A row of one of all kinds, half of them of what machines do."""
    return rng.choices((_repeat, _find, _compare, _apply), (1, 1, 2, 4))[0](rng)


def in_passes(seed: int, steps: int, batch: int, asks: Asks = "highest") -> list[dict[str, Any]]:
    """Rows for ``steps`` batches of the curriculum: eight passes over the same questions, from
    their flattened twins to blocks. Texts of a batch have as many runs."""
    size = steps // len(STAGES)
    blocks = rows(seed, size, batch, {("parallel", False): 1.0}, asks=asks)
    flat = [with_prompt_mode(to_autoregressive(one), "sequential") for one in blocks]
    ordered: list[dict[str, Any]] = []
    rng = random.Random(f"passes-{seed}")
    for one in curriculum(len(blocks), seed):
        in_blocks = dict(one)
        turns = list(range(size))
        rng.shuffle(turns)
        for turn in turns:
            some = range(turn * batch, (turn + 1) * batch)
            ordered += [(blocks if in_blocks[i] else flat)[i] for i in some]
    return ordered


class Until(TrainerCallback):
    """Ends training once the loss is below ``loss``."""

    def __init__(self, loss: float):
        self.loss = loss

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs = kwargs.get("logs") or {}
        if float(logs.get("loss", self.loss)) < self.loss:
            control.should_training_stop = True


class Exam(TrainerCallback):
    """Every ``every`` steps, how many unseen rows of each kind the model would write word for
    word; kept in ``log``."""

    def __init__(
        self, tokenizer: Any, papers: dict[str, list[dict[str, Any]]], variant: str, every: int
    ):
        self.tokenizer, self.papers, self.variant, self.every = tokenizer, papers, variant, every
        self.log: list[dict[str, Any]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        last = state.global_step == state.max_steps or control.should_training_stop
        if state.global_step % self.every and not last:
            return
        found: dict[str, Any] = {"step": state.global_step}
        for name, paper in self.papers.items():
            wrong = word_for_word(
                kwargs["model"], self.tokenizer, paper, self.variant, batch_size=8
            )
            found[name] = sum(not one for one in wrong) / len(wrong)
        self.log.append(found)
        print(found, flush=True)


def train(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    data: list[dict[str, Any]],
    out: Path,
    *,
    steps: int,
    batch: int,
    rate: float,
    variant: str = "multiverse",
    seed: int = 0,
    exam: Exam | None = None,
    until: float | None = None,
    minutes: float | None = None,
    save_steps: int | None = None,
    warmup: int = 30,
    workers: int = 1,
) -> dict[str, Any]:
    """Train ``model`` on ``data`` in its order and save it in ``out``.

    Args:
        rate: of the matrices (Muon); the rest (AdamW) takes 0.15 times as much.
        until: end once the loss is below this.
        minutes: end after so many, the rate falling by the clock, if ``steps`` are not done by
            then.
        save_steps: steps between checkpoints, from the last of which a run that was cut goes on.
        workers: processes that encode ``data``, where it is more than a few rows.

    Returns:
        Losses by step, tokens trained on, and what the exams found.
    """
    args = MultiverseSFTConfig(
        output_dir=str(out / "checkpoints"),
        variant=variant,
        max_steps=steps,
        per_device_train_batch_size=batch,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": steps * 2 // 5},
        warmup_steps=warmup,
        max_grad_norm=1.0,
        max_length=MAX_LENGTH,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        bf16=fast_bfloat16(),
        use_cpu=not torch.cuda.is_available(),
        logging_steps=10,
        save_strategy="no" if save_steps is None else "steps",
        save_steps=save_steps or 1,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        dataset_num_proc=workers if workers > 1 and len(data) > FEW else None,
        seed=seed,
    )
    optimizer = MuonAdamW(model, lr=0.15 * rate, muon_lr=rate)
    callbacks: list[TrainerCallback] = [] if exam is None else [exam]
    if until is not None:
        callbacks.append(Until(until))
    schedule = None
    if minutes is not None:
        clock = Clock(minutes, optimizer)
        callbacks, schedule = [clock, *callbacks], clock.schedule
    trainer = MultiverseSFTTrainer(
        model,
        args,
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        optimizers=(optimizer, schedule),
        callbacks=callbacks,
    )
    checkpoints = out / "checkpoints"
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    return {
        "losses": [(e["step"], e["loss"]) for e in trainer.state.log_history if "loss" in e],
        "tokens": int(trainer._total_train_tokens),
        "exams": [] if exam is None else exam.log,
    }


def learn_lookups(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    out: Path,
    *,
    seed: int,
    steps: tuple[int, int, int] = (1500, 600, 500),
    workers: int = 1,
) -> list[dict[str, Any]]:
    """Teach a fresh model to look up in what stands above, which all else needs, from little else.

    It repeats words, names and numbers until the loss says that it can, which comes at another step
    from every seed; then it finds runs by their names and compares numbers, and goes on repeating:
    600 steps of comparing alone made models forget how to look up, and none learnt it again from
    whole texts. Last it learns the machines' tables, which 800 steps of whole texts taught one
    model of two. The latest part that ``out`` holds is taken from there, and none before it.

    Args:
        steps: most of repeating, those of the three, and those with tables, too.

    Returns:
        Of each part that is there, what :func:`train` returns.
    """
    rng = random.Random(f"lookups-{seed}")
    done = []
    parts = ((_repeat, 0.2), (_mixed, None), (_tables, None))
    folders = [out / make.__name__.strip("_") for make, _ in parts]
    latest = max(
        (i for i, one in enumerate(folders) if (one / "trained.json").exists()), default=-1
    )
    if latest >= 0:
        model.load_state_dict(
            Qwen2ForCausalLM.from_pretrained(folders[latest] / "model").state_dict()
        )
    for i, ((make, until), most) in enumerate(zip(parts, steps, strict=True)):
        data = [make(rng) for _ in range(8 * most)]
        folder = folders[i]
        kept = folder / "trained.json"
        if i > latest:
            found = train(
                model,
                tokenizer,
                data,
                folder,
                steps=most,
                batch=8,
                rate=2e-2,
                seed=seed,
                until=until,
                workers=workers,
            )
            kept.write_text(json.dumps(found), encoding="utf-8")
        if kept.exists():
            done.append(json.loads(kept.read_text(encoding="utf-8")))
    return done


#: What the demo's model is trained on.
DEMO_KINDS: dict[Kind, float] = {
    ("parallel", False): 0.5,
    ("sequential", False): 0.25,
    ("parallel", True): 0.25,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the model that `multiverse demo` asks.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--minutes", type=float, help="end by the clock, whatever the step")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--easy-steps", type=int, default=300, help="batches of short runs first")
    parser.add_argument("--every", type=int, default=100, help="steps between exams")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--init", type=Path, help="start from the weights in this folder")
    parser.add_argument(
        "--distinct", type=int, default=1500, help="steps after which texts come again"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that encode texts")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = machines_tokenizer()
    model = machines_model(tokenizer, options.seed)
    if options.init is None:
        learn_lookups(model, tokenizer, options.out / "lookups", seed=options.seed)
    else:
        model.load_state_dict(Qwen2ForCausalLM.from_pretrained(options.init).state_dict())
    papers = {
        f"{mode}{', nested' if nested else ''}": rows(1, 9, 4, {(mode, nested): 1.0}, "test")
        for mode, nested in DEMO_KINDS
    }
    data = rows(
        options.seed,
        min(options.steps, options.distinct),
        options.batch,
        DEMO_KINDS,
        easy_steps=options.easy_steps,
    )
    train(
        model,
        tokenizer,
        data,
        options.out,
        steps=options.steps,
        batch=options.batch,
        rate=options.rate,
        seed=options.seed,
        exam=Exam(tokenizer, papers, "multiverse", options.every),
        minutes=options.minutes,
        save_steps=options.every,
        workers=options.workers,
    )
    print(f"the trained model is in {options.out / 'model'}")


if __name__ == "__main__":
    main()
