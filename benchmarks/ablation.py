"""Does the layout matter? Multiverse against its baselines and ablations on a small task.

    python benchmarks/ablation.py train  [--out runs/ablation] [--steps 350] [--seeds 0 1 2]
    python benchmarks/ablation.py serve  [--out runs/ablation] [--questions 200]
    python benchmarks/ablation.py report [--out runs/ablation] [--docs docs]

``train`` makes one model per arm and seed from nothing: the same shape and initial weights, the
same questions in the same order, the same number of steps. Arms differ in the text of the answer
and in the layout it is trained under:

==============  ====================================  =========  =================
arm             answer                                attention  positions
==============  ====================================  =========  =================
multiverse      in blocks                             by order   shared by paths
no-mask         in blocks                             causal     in text order
no-positions    in blocks                             by order   in text order
sequential      the same steps one after another      causal     in text order
autoregressive  blocks flattened, no goal/conclusion  causal     in text order
==============  ====================================  =========  =================

``serve`` asks each model unseen questions through the real engine, greedily: with fork and join,
and the model without mask also as one sequence. ``report`` makes the table and the figure.

The task (``digit_counts.py``) is one that a small model learns in minutes: two or three rows of
digits, how many of each are over four, and which count is largest or smallest.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from digit_counts import Question, questions, row

Mode = Literal["parallel", "sequential"]

#: Arm → the setting it is trained with, and the mode of its questions and answers.
ARMS: dict[str, tuple[str, Mode]] = {
    "multiverse": ("multiverse", "parallel"),
    "no-mask": ("no-mask", "parallel"),
    "no-positions": ("no-positions", "parallel"),
    "sequential": ("multiverse", "sequential"),
    "autoregressive": ("autoregressive", "parallel"),
}
BATCH = 16
EXAM = 200
LAYERS = 3


def train(arm: str, seed: int, steps: int, folder: Path, rate: float) -> dict[str, Any]:
    """Train one model, save it in ``folder`` and examine it under the layout it was trained with.

    Args:
        rate: learning rate of the matrices (Muon); the rest (AdamW) takes 0.15 times as much.
    """
    import torch
    from datasets import Dataset
    from transformers import Qwen2ForCausalLM

    from sglang_multiverse.tiny.factory.model import tiny_config, tiny_tokenizer
    from sglang_multiverse.tiny.factory.muon import MuonAdamW
    from sglang_multiverse.training.trainer import MultiverseSFTConfig, MultiverseSFTTrainer

    variant, mode = ARMS[arm]
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer)
    config.num_hidden_layers, config.layer_types = LAYERS, config.layer_types[:LAYERS]
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    problems = list(itertools.islice(questions(seed, "train"), steps * BATCH))
    unseen = list(itertools.islice(questions(1, "test"), EXAM))
    args = MultiverseSFTConfig(
        output_dir=str(folder / "run"),
        variant=variant,
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": steps * 2 // 5},
        warmup_steps=30,
        max_grad_norm=1.0,
        max_length=1024,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=50,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
    )
    trainer = MultiverseSFTTrainer(
        model,
        args,
        train_dataset=Dataset.from_list([row(p, mode) for p in problems]),
        eval_dataset=Dataset.from_list([row(p, mode) for p in unseen]),
        processing_class=tokenizer,
        optimizers=(MuonAdamW(model, lr=0.15 * rate, muon_lr=rate), None),
    )
    begun = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - begun
    losses = [(e["step"], e["loss"]) for e in trainer.state.log_history if "loss" in e]
    if variant in ("no-mask", "no-positions"):  # to be served as it was not trained
        del model.config.multiverse
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return {
        "arm": arm,
        "seed": seed,
        "steps": steps,
        "seconds": seconds,
        "tokens": int(trainer._total_train_tokens),
        "losses": losses,
        "word_for_word": _word_for_word(trainer),
        "questions": len(unseen),
    }


def _word_for_word(trainer: Any) -> int:
    """Unseen answers that a greedy decode under the trained layout writes word for word."""
    import torch

    trainer.model.eval()
    right = 0
    for batch in trainer.get_eval_dataloader():
        labels = batch.pop("labels")[:, 1:]
        with torch.no_grad():
            guess = trainer.model(**batch, use_cache=False).logits[:, :-1].argmax(-1)
        right += int((~((guess != labels) & (labels != -100)).any(-1)).sum())
    return right


def serve(out: Path, names: list[str], count: int) -> list[dict[str, Any]]:
    """Ask every model ``count`` unseen questions through one server whose weights are swapped."""
    from transformers import AutoTokenizer

    from sglang_multiverse.server import Server

    problems = list(itertools.islice(questions(2, "test"), count))
    tokenizer = AutoTokenizer.from_pretrained(out / names[0] / "model")
    served: list[dict[str, Any]] = []
    with Server(out / names[0] / "model", flags=["--dtype", "float32"]) as server:
        for name in names:
            arm = name.rsplit("-", 1)[0]
            swapped = server.request(
                "/update_weights_from_disk",
                {"model_path": str((out / name / "model").resolve()), "flush_cache": True},
            )
            assert swapped["success"], swapped
            mode: Mode = (
                "parallel" if arm in ("multiverse", "no-mask", "no-positions") else ("sequential")
            )
            for forking in (True, False) if arm == "no-mask" else (True,):

                def ask(question: Question, mode: Mode = mode, forking: bool = forking) -> Any:
                    text = tokenizer.apply_chat_template(
                        row(question, mode)["prompt"],
                        tokenize=False,
                        add_generation_prompt=True,
                    )
                    params = {"temperature": 0, "max_new_tokens": 600, "skip_special_tokens": False}
                    if not forking:
                        params["custom_params"] = {"multiverse": False}
                    body = {"text": text, "sampling_params": params}
                    return server.request("/generate", body)

                with ThreadPoolExecutor(16) as pool:
                    answers = list(pool.map(ask, problems))
                rows = []
                for problem, answer in zip(problems, answers, strict=True):
                    meta = answer["meta_info"]
                    tokens = meta["completion_tokens"]
                    rows.append(
                        {
                            "right": problem.grade(answer["text"]),
                            "tokens": tokens,
                            "critical_path": meta.get("multiverse_critical_path_tokens", tokens),
                        }
                    )
                served.append({"name": name, "forking": forking, "answers": rows})
                right = sum(one["right"] for one in rows)
                print(
                    f"{name}{'' if forking else ' (one sequence)'}: {right} of {count}", flush=True
                )
    return served


#: Rows of the table: title → arm, and whether the engine forks.
ROWS = {
    "multiverse": ("multiverse", True),
    "blocks without the mask, forked": ("no-mask", True),
    "blocks without the mask, one sequence": ("no-mask", False),
    "the mask without shared positions": ("no-positions", True),
    "sequential worked answer": ("sequential", True),
    "autoregressive twin": ("autoregressive", True),
}


def _spread(values: list[float], digits: int = 1) -> str:
    low, high = min(values), max(values)
    return f"{statistics.mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def report(results: dict[str, Any], docs: Path) -> str:
    """The table as Markdown; the budget curve is drawn into ``docs/figures``."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = [
        "| model | right, % | word for word, own layout, % | critical path, tokens | tokens |",
        "|---|---|---|---|---|",
    ]
    figure, axes = plt.subplots(figsize=(9, 4))
    for title, (arm, forking) in ROWS.items():
        runs = [
            one
            for one in results["served"]
            if one["name"].rsplit("-", 1)[0] == arm and one["forking"] == forking
        ]
        exams = [one for one in results["trained"] if one["arm"] == arm]
        if not runs:
            continue
        answers = [run["answers"] for run in runs]
        share = [100 * statistics.mean(a["right"] for a in one) for one in answers]
        exact = [100 * one["word_for_word"] / one["questions"] for one in exams]
        path = [statistics.mean(a["critical_path"] for a in one) for one in answers]
        tokens = [statistics.mean(a["tokens"] for a in one) for one in answers]
        lines.append(
            f"| {title} | {_spread(share)} | {_spread(exact)} | {_spread(path, 0)} "
            f"| {_spread(tokens, 0)} |"
        )
        pooled = [answer for one in answers for answer in one]
        budgets = range(0, 401, 5)
        axes.plot(
            budgets,
            [
                100 * statistics.mean(a["right"] and a["critical_path"] <= b for a in pooled)
                for b in budgets
            ],
            label=title,
        )
    axes.set(
        xlabel="budget: tokens on the critical path",
        ylabel="answers right within it, %",
        ylim=(0, 100),
    )
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    axes.grid(alpha=0.3)
    figure.tight_layout()
    (docs / "figures").mkdir(parents=True, exist_ok=True)
    figure.savefig(docs / "figures" / "ablation.svg", metadata={"Date": None})
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["train", "serve", "report"])
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--results", type=Path, help="report of this file, not of what is in --out")
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--rate", type=float, default=2e-2, help="learning rate of the matrices")
    options = parser.parse_args()
    out = options.out
    if options.stage == "train":
        for seed in options.seeds:
            for arm in options.arms:
                folder = out / f"{arm}-{seed}"
                if (folder / "trained.json").exists():
                    continue  # a run that was cut off goes on here
                done = train(arm, seed, options.steps, folder, options.rate)
                (folder / "trained.json").write_text(json.dumps(done))
                print(
                    f"{arm}, seed {seed}: {done['word_for_word']} of {done['questions']} word for "
                    f"word, {done['seconds']:.0f} s",
                    flush=True,
                )
    elif options.stage == "serve":
        names = [f"{arm}-{seed}" for seed in options.seeds for arm in options.arms]
        (out / "served.json").write_text(json.dumps(serve(out, names, options.questions)))
    elif options.results is not None:
        print(report(json.loads(options.results.read_text()), options.docs))
    else:
        trained = [json.loads(path.read_text()) for path in sorted(out.glob("*-*/trained.json"))]
        served = json.loads((out / "served.json").read_text())
        results = {"trained": trained, "served": served}
        (out / "results.json").write_text(json.dumps(results, separators=(",", ":")))
        print(report(results, options.docs))


if __name__ == "__main__":
    main()
