"""SGLang's engine inside your own Python process, no HTTP: one question, twice.

    python examples/engine.py

The second time its paths decode one after another: the same text, in more forward steps.
"""

import os

import torch

if not torch.accelerator.is_available():
    os.environ["SGLANG_PLATFORM"] = "torch_cpu"  # on a CPU, before SGLang is imported

import sglang as sgl
from transformers import AutoTokenizer

from sglang_multiverse.tiny import MODEL_DIR

QUESTION = "Let A = 482+395, B = 913-278, C = 267*4. Which is largest, A, B or C?"
PARALLEL = "Think step by step and in parallel before answering."


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": f"{QUESTION} {PARALLEL}"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    engine = sgl.Engine(
        plugin="multiverse",
        model_path=str(MODEL_DIR),
        multiverse_max_branches=8,
        max_total_tokens=6000,  # of KV; without it SGLang takes most of the memory
    )
    try:
        for rows in (None, 1):
            sampling = {
                "temperature": 0,
                "max_new_tokens": 1000,
                "custom_params": {"multiverse": {"max_live_rows": rows}},
            }
            answer = engine.generate(prompt, sampling)
            if rows is None:
                print(answer["text"])
            steps = answer["meta_info"]["multiverse_forward_steps"]
            print(f"paths at a time: {rows or 'all'}, forward steps: {steps}")
    finally:
        engine.shutdown()


if __name__ == "__main__":  # SGLang starts its processes by importing this file again
    main()
