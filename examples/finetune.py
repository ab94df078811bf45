"""Fine-tune on traces of your own, then load the result and let it answer. A minute on a CPU.

python examples/finetune.py --out runs/finetuned
multiverse serve --model-path runs/finetuned
"""

import argparse
import json
from itertools import islice
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from sglang_multiverse.dialect import Dialect
from sglang_multiverse.parallelism import parallelism
from sglang_multiverse.structure import parse
from sglang_multiverse.tiny import task
from sglang_multiverse.tiny.dataset import messages
from sglang_multiverse.training import sft
from sglang_multiverse.training.decode import fork_join_decode


def write_traces(path: Path, count: int) -> None:
    """Questions whose answers have two blocks, which the tiny model mostly gets wrong.

    A row is ``{"prompt": [message], "completion": [message]}``; ``multiverse curate export`` writes
    such rows of your own chains.
    """
    problems = islice(task.generate(seed=5, split="train", kinds={"staged": 1.0}), count)
    rows = [json.dumps(messages(problem, "parallel")) for problem in problems]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/finetuned"))
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()

    data = options.out / "traces.jsonl"
    data.parent.mkdir(parents=True, exist_ok=True)
    write_traces(data, 8 * options.steps)
    # As `multiverse sft --config tiny …`: every field of the recipe can follow as a flag.
    arguments = ["--config", "tiny", "--dataset_name", str(data), "--output_dir", str(options.out)]
    arguments += ["--max_steps", str(options.steps), "--learning_rate", "1e-4"]
    arguments += ["--eval_strategy", "no", "--eval_generations", "0", "--logging_steps", "1"]
    trainer = sft.run(*sft.parse(arguments))
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    print(f"loss of the first step {losses[0]:.4f}, of the last {losses[-1]:.4f}")

    # What was saved says under which layout it was trained; the server reads it.
    print(json.loads((options.out / "config.json").read_text())["multiverse"])
    tokenizer = AutoTokenizer.from_pretrained(options.out)
    model = AutoModelForCausalLM.from_pretrained(options.out, dtype="float32")
    dialect = Dialect.from_tokenizer(tokenizer)
    problem = next(task.generate(seed=5, split="test", kinds={"staged": 1.0}))
    prompt = tokenizer.apply_chat_template(
        messages(problem, "parallel")["prompt"], add_generation_prompt=True, return_dict=False
    )
    # Decoding by plain recomputation: enough for a look, `multiverse serve` is for the rest.
    ((ids, steps),) = fork_join_decode(model, [prompt], dialect, eos=tokenizer.eos_token_id)
    print(tokenizer.decode(ids))
    measured = parallelism(parse(ids, dialect))
    print(f"{measured.tokens} tokens in {steps} steps, {measured.degree:.2f}× parallel")


if __name__ == "__main__":
    main()
