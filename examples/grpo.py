"""Reinforcement learning: TRL's GRPO with rewards of your own, sampling from a served model.

    python examples/grpo.py --steps 2                         # starts a server for it
    python examples/grpo.py --steps 2 --url http://127.0.0.1:30000

After every step the server gets the new weights, so no one else should be using it. A server of
your own needs room for a step's answers: ``multiverse serve --dtype float32``.
"""

import argparse
from contextlib import nullcontext
from functools import partial
from itertools import islice

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig

from sglang_multiverse.server import Endpoint, Server
from sglang_multiverse.tiny import MODEL_DIR, task
from sglang_multiverse.training.grpo.rewards import latency_reward, tiny_correctness, where_right
from sglang_multiverse.training.grpo.rollout import MultiverseRollout
from sglang_multiverse.training.grpo.trainer import MultiverseGRPOTrainer

#: Half of the sentence the tiny model knows: some of its answers to it fork, some do not.
OPEN_ENDING = "Think step by step and in parallel."


def forks_cleanly(
    completions: list, issues: list[list[str]], forks: list[int], **kwargs: object
) -> list[float]:
    """A reward of one's own: 1.0 for an answer that forked, and is in canonical form."""
    return [float(count > 0 and not found) for count, found in zip(forks, issues, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="of a running server; without it one is started")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--out", default="runs/grpo-example")
    options = parser.parse_args()

    problems = islice(task.generate(seed=3, split="train", kinds={"compare": 1.0}), 64)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{problem} {OPEN_ENDING}"}],
            "question": str(problem),  # columns reach the rewards by their names
        }
        for problem in problems
    ]
    config = GRPOConfig(
        output_dir=options.out,
        max_steps=options.steps,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=512,
        reward_weights=[1.0, 2.0, 0.5],
        learning_rate=3e-4,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        bf16=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    model = AutoModelForCausalLM.from_pretrained(
        MODEL_DIR, dtype="float32", attn_implementation="sdpa"
    )
    quick = where_right(tiny_correctness, partial(latency_reward, budget=400))
    own = partial(Server, MODEL_DIR, flags=["--dtype", "float32"])
    with nullcontext(Endpoint(options.url)) if options.url else own() as server:
        trainer = MultiverseGRPOTrainer(
            model,
            [tiny_correctness, quick, forks_cleanly],
            config,
            Dataset.from_list(rows),
            rollout_func=MultiverseRollout(server.url, tokenizer),
            processing_class=tokenizer,
        )
        trainer.train()
    for row in trainer.state.log_history:
        if "reward" in row:
            print(
                f"step {row['step']}: reward {row['reward']:.3f}, "
                f"right {row['rewards/tiny_correctness/mean']:.2f}, "
                f"forked {row['multiverse/forked']:.2f}, "
                f"engine against policy {row['sampling/sampling_logp_difference/max']:.1e} nats"
            )
    trainer.save_model(f"{options.out}/model")
    print(f"the trained model is in {options.out}/model")


if __name__ == "__main__":
    main()
