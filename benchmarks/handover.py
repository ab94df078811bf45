"""Seconds that each way of giving a server new weights takes, on this machine.

    python benchmarks/handover.py --layers 10 --hidden 1024

Starts a server of a random model of the tiny model's family, and gives it weights some times in
each way that ``multiverse grpo --weights`` knows.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM

from sglang_multiverse.server import Server
from sglang_multiverse.tiny import MODEL_DIR
from sglang_multiverse.training.grpo.engine import EngineClient
from sglang_multiverse.training.grpo.handover import Handover


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=1024, help="a multiple of 64")
    parser.add_argument("--updates", type=int, default=4)
    options = parser.parse_args()

    config = AutoConfig.from_pretrained(MODEL_DIR)
    config.hidden_size = options.hidden
    config.intermediate_size = options.hidden * 11 // 4
    config.num_hidden_layers = options.layers
    config.layer_types = ["full_attention"] * options.layers
    config.num_attention_heads = config.num_key_value_heads = options.hidden // 64
    model = AutoModelForCausalLM.from_config(config)
    weights = sum(one.numel() for one in model.parameters())
    print(f"{weights / 1e6:.1f} M weights in {model.dtype}")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(MODEL_DIR, folder, dirs_exist_ok=True)
        model.save_pretrained(Path(folder))
        with Server(folder, flags=["--dtype", "float32", "--max-total-tokens", "4000"]) as server:
            for way in ("memory", "distributed", "disk"):
                handover = Handover(EngineClient(server.url), way)
                for number in range(options.updates):
                    handover.give(model, f"{way}-{number}")
                handover.close()
                print(f"{way}: {', '.join(f'{one:.2f}' for one in handover.seconds)} s")


if __name__ == "__main__":
    main()
