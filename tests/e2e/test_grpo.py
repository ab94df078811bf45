"""Reinforcement learning on the real engine: TRL's GRPO samples from it, scores its answers as it
does, and gives it new weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM
from trl import GRPOConfig
from trl.trainer.utils import add_fused_lm_head, pad

from sglang_multiverse.dialect import Dialect
from sglang_multiverse.tiny import MODEL_DIR, task
from sglang_multiverse.training.attention import enable_multiverse_attention
from sglang_multiverse.training.grpo.engine import EngineClient, EngineError
from sglang_multiverse.training.grpo.handover import Handover
from sglang_multiverse.training.grpo.prompts import tiny_splits
from sglang_multiverse.training.grpo.report import LOG, SUMMARY
from sglang_multiverse.training.grpo.rewards import latency_reward
from sglang_multiverse.training.grpo.rollout import MultiverseRollout
from sglang_multiverse.training.grpo.run import Run, main, train
from sglang_multiverse.training.grpo.trainer import MultiverseGRPOTrainer

from .client import Client

pytestmark = [
    pytest.mark.weights("tiny"),
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func'"),
]

TEMPERATURE = 0.8
#: For tokens of probability 1e-3 and more; float32 rounds more coarsely at rarer ones.
TOLERANCE = 1e-4
RARE, RARE_TOLERANCE = math.log(1e-3), 2e-3


@pytest.fixture
def engine(overlap: Client) -> Iterator[EngineClient]:
    """The server whose weights a test may replace; afterwards it has its own again."""
    yield EngineClient(overlap.server.url)
    EngineClient(overlap.server.url).update_weights(MODEL_DIR, "shipped")


def config(out: Path, **changes: Any) -> GRPOConfig:
    return GRPOConfig(
        **{
            "output_dir": str(out),
            "max_steps": 4,
            "per_device_train_batch_size": 24,
            "num_generations": 4,
            "max_completion_length": 512,
            "temperature": TEMPERATURE,
            "learning_rate": 6e-4,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "bf16": False,
            "use_cpu": True,
            **changes,
        }
    )


def tiny_policy() -> Any:
    return AutoModelForCausalLM.from_pretrained(
        MODEL_DIR, dtype=torch.float32, attn_implementation="sdpa"
    )


def scored(
    trainer: MultiverseGRPOTrainer, model: Any, rolled: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """TRL's logprobs of completions, prompts padded on the left, and where TRL would use them."""
    sides = {"prompt_ids": "left", "completion_ids": "right"}
    ids, kept = {}, {}
    for name, side in sides.items():
        rows = [torch.tensor(row) for row in rolled[name]]
        ids[name] = pad(rows, padding_value=0, padding_side=side)
        kept[name] = pad([torch.ones_like(r) for r in rows], padding_value=0, padding_side=side)
    with torch.no_grad():
        values, _, _ = trainer._get_per_token_logps_and_entropies(
            model,
            torch.cat(list(ids.values()), dim=1),
            torch.cat(list(kept.values()), dim=1),
            ids["completion_ids"].size(1),
        )
    mask = pad([torch.tensor(row) for row in rolled["env_mask"]], padding_value=0)
    return values, mask.bool()


def test_the_policy_scores_a_rollout_as_the_engine_did(
    engine: EngineClient, tokenizer: Any, dialect: Dialect, tmp_path: Path
) -> None:
    """Real completions with forks, of unequal prompts, at a temperature other than 1."""
    kinds = ["single", "compare", "nested"]
    rows = [{"prompt": row["prompt"]} for row in tiny_splits(0, kinds, _PARALLEL, 0, 16)[1]]
    rollout = MultiverseRollout(engine, tokenizer)
    trainer = MultiverseGRPOTrainer(
        tiny_policy(),
        latency_reward,
        config(tmp_path),
        Dataset.from_list(rows),
        rollout_func=rollout,
        processing_class=tokenizer,
    )
    trainer.model.eval()
    rolled = rollout([row["prompt"] for row in rows], trainer)
    assert rollout.dialect == dialect
    assert len(rolled["completion_ids"]) == len(rows)
    assert all(rolled["faithful"])
    assert sum(forks > 0 for forks in rolled["forks"]) >= 8
    written = [
        value
        for row, mask in zip(rolled["logprobs"], rolled["env_mask"], strict=True)
        for value, chosen in zip(row, mask, strict=True)
        if not chosen
    ]
    assert written
    assert set(written) == {0.0}
    theirs = pad([torch.tensor(row) for row in rolled["logprobs"]], padding_value=0)
    ours, mask = scored(trainer, trainer.model, rolled)
    gap = (ours - theirs)[mask].abs()
    common = theirs[mask] > RARE
    print(
        f"\n{int(mask.sum())} sampled tokens of {len(rows)} completions at temperature "
        f"{TEMPERATURE}: |Δ logprob| max {float(gap.max()):.1e}, mean {float(gap.mean()):.1e}, "
        f"max without {int((~common).sum())} rare ones {float(gap[common].max()):.1e}"
    )
    assert common.float().mean() > 0.99
    assert gap[common].max() <= TOLERANCE
    assert gap.max() <= RARE_TOLERANCE
    # The same forward without the layout: what would be trained on if the hook were missing.
    causal = tiny_policy().eval()
    add_fused_lm_head(causal, temperature=TEMPERATURE)
    assert (scored(trainer, causal, rolled)[0] - theirs)[mask].abs().max() > 0.1


def test_a_short_run_keeps_its_books_and_the_server_in_step(
    engine: EngineClient, tokenizer: Any, tmp_path: Path
) -> None:
    """Rewards add up, the loss is finite, the policy moves, and the server has its weights."""
    run = Run(
        out=str(tmp_path / "out"),
        model="tiny",
        reward=["tiny", "latency=2.0", "validity=0.2"],
        latency_budget=400,
        server_url=engine.url,
        exam=16,
    )
    settings = config(tmp_path, scale_rewards="batch")
    summary = train(run, settings, Console(quiet=True))

    rows = [json.loads(line) for line in (Path(run.out) / LOG).read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    parts = ("tiny_correctness", "latency_reward", "validity_reward")
    for row in rows:
        each = [row[f"rewards/{name}/mean"] for name in parts]
        weighed = sum(w * value for w, value in zip(settings.reward_weights, each, strict=True))
        assert row["reward"] == pytest.approx(weighed, abs=1e-5)
        assert math.isfinite(row["loss"])
        assert row["multiverse/unfaithful"] == 0
        # Unlikely tokens of a policy that moves; another model's would be off by whole nats.
        assert row["sampling/sampling_logp_difference/max"] < 1e-2
        assert row["sampling/sampling_logp_difference/mean"] < 1e-4
    assert rows[0]["grad_norm"] > 0

    trained = AutoModelForCausalLM.from_pretrained(Path(run.out) / "model", dtype=torch.float32)
    rows = [{"prompt": row["prompt"]} for row in tiny_splits(9, ["compare"], None, 8, 0)[0]]
    trainer = MultiverseGRPOTrainer(
        trained,
        latency_reward,
        config(tmp_path),
        Dataset.from_list(rows),
        rollout_func=MultiverseRollout(engine, tokenizer, sync_every=None),
        processing_class=tokenizer,
    )
    trainer.model.eval()
    rolled = trainer.rollout_func([row["prompt"] for row in rows], trainer)
    theirs = pad([torch.tensor(row) for row in rolled["logprobs"]], padding_value=0)
    shipped = enable_multiverse_attention(tiny_policy().eval(), trainer.rollout_func.dialect)
    add_fused_lm_head(shipped, temperature=TEMPERATURE)
    gaps = {}
    for name, model in {"trained": trainer.model, "shipped": shipped}.items():
        ours, mask = scored(trainer, model, rolled)
        gaps[name] = float((ours - theirs)[mask].abs().mean())
    print(f"\nthe server's weights: mean |Δ logprob| to {gaps}")
    assert gaps["trained"] < 1e-5
    assert gaps["shipped"] > 100 * gaps["trained"]

    before, after = summary["before"], summary["after"]
    print(
        f"\nunseen questions forked {before['forked']:.0%} -> {after['forked']:.0%}, critical path "
        f"{before['critical_path']:.0f} -> {after['critical_path']:.0f}, right "
        f"{before['tiny_correctness']:.0%} -> {after['tiny_correctness']:.0%}"
    )
    # Four steps are too few to say which way these go; docs/rl.md has a run that is long enough.
    assert before != after
    assert json.loads((Path(run.out) / SUMMARY).read_text()) == summary


@pytest.mark.parametrize("way", ["memory", "distributed", "disk"])
def test_after_every_way_of_update_the_server_answers_with_the_new_weights(
    engine: EngineClient, tokenizer: Any, tmp_path: Path, way: str
) -> None:
    """And forgets the KV of old ones: other weights answered the same prompts before."""
    rows = [{"prompt": row["prompt"]} for row in tiny_splits(4, ["compare"], _PARALLEL, 6, 0)[0]]
    rollout = MultiverseRollout(engine, tokenizer, weights=way)
    trainer = MultiverseGRPOTrainer(
        tiny_policy(),
        latency_reward,
        config(tmp_path),
        Dataset.from_list(rows),
        rollout_func=rollout,
        processing_class=tokenizer,
    )
    trainer.model.eval()
    prompts = [row["prompt"] for row in rows]
    shipped = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    torch.manual_seed(0)
    try:
        for step in range(3):
            trainer.state.global_step = step
            trainer.model.load_state_dict(shipped)
            if step != 1:
                with torch.no_grad():
                    for weight in trainer.model.parameters():
                        weight.mul_(1 + 0.1 * torch.randn_like(weight))
            rolled = rollout(prompts, trainer)
            theirs = pad([torch.tensor(row) for row in rolled["logprobs"]], padding_value=0)
            ours, mask = scored(trainer, trainer.model, rolled)
            gap = (ours - theirs)[mask].abs()
            assert float(gap.mean()) < 1e-5
            assert float(gap[theirs[mask] > RARE].max()) <= TOLERANCE
            assert rollout.version == f"0-step-{step}"
    finally:
        rollout.close()
    assert rollout.handover.used == way
    seconds = ", ".join(f"{one:.2f}" for one in rollout.handover.seconds)
    print(f"\n{way}: {seconds} s for 1.3 M weights, saving and an empty cache included")
    # What the check would find if the last of them had not arrived.
    trainer.model.load_state_dict(shipped)
    assert float((scored(trainer, trainer.model, rolled)[0] - theirs)[mask].abs().mean()) > 1e-3


JUDGE = """
def says_so(completions, answer, path_texts, **kwargs):
    right = [gold in turn[-1]["content"] for turn, gold in zip(completions, answer)]
    # One value per path where there are paths: those that write a number down do well.
    return [
        [float(any(c.isdigit() for c in text)) for text in texts] if texts else float(ok)
        for ok, texts in zip(right, path_texts)
    ]
"""


def test_a_run_on_a_dataset_and_rewards_of_a_users_own(
    engine: EngineClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Questions in a column of a file, a reference to compare with, a reward in a file: from the
    command line to the trained model, on an engine whose weights go over in memory."""
    data, judge = tmp_path / "questions.jsonl", tmp_path / "judge.py"
    problems = islice(task.generate(11, "train", {"compare": 1.0}), 40)
    rows = [{"asked": str(one), "answer": f"Worked out:\n#### {one.answer}"} for one in problems]
    data.write_text("\n".join(map(json.dumps, rows)))
    judge.write_text(JUDGE)
    out = tmp_path / "out"
    arguments = {
        "config": "tiny",
        "dataset_name": data,
        "prompt_column": "asked",
        "ending": "Think step by step and in parallel.",
        "structural_filter": "loss",
        "path_advantages": True,
        "tag_gradient": True,
        "server_url": engine.url,
        "out": out,
        "exam": 4,
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "seed": 5,
    }
    words = [word for key, value in arguments.items() for word in (f"--{key}", str(value))]
    rewards = ["math", "latency", "parallel=0.2@2-2/2", f"{judge}:says_so=0.5"]
    main([*words, *(word for reward in rewards for word in ("--reward", reward))])

    steps = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
    assert [row["step"] for row in steps] == [1, 2]
    assert steps[0]["rewards/parallel_reward/mean"] == 0.0  # not yet
    names = ("math_reward", "parallel_reward", "says_so")
    for row in steps:
        assert all(row[f"rewards/{name}/mean"] is not None for name in names)
        assert math.isfinite(row["loss"])
        assert row["multiverse/unfaithful"] == 0
        assert row["multiverse/filtered"] == pytest.approx(1 - row["multiverse/canonical"])
        assert row["sampling/sampling_logp_difference/mean"] < 1e-4
    assert max(row["rewards/math_reward/mean"] for row in steps) > 0
    assert max(row["grad_norm"] for row in steps) > 0
    summary = json.loads((out / SUMMARY).read_text())
    assert summary["weights"]["way"] == "memory"
    assert len(summary["weights"]["seconds"]) == 3  # before each step, and for the last exam
    assert summary["before"]["questions"] == 4
    assert set(names) <= summary["before"].keys()
    trained = AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.float32)
    shipped = tiny_policy()
    assert any(
        not torch.equal(one, two)
        for one, two in zip(trained.parameters(), shipped.parameters(), strict=True)
    )
    assert "step 2/2: reward" in capsys.readouterr().out


def test_a_served_checkpoint_of_other_sizes_is_refused_and_left_as_it_is(
    engine: EngineClient, tokenizer: Any, tmp_path: Path
) -> None:
    """Tensors that do not fit would end SGLang's scheduler: sizes are compared before any go."""
    settings = AutoConfig.from_pretrained(MODEL_DIR)
    settings.num_hidden_layers -= 1
    settings.layer_types = settings.layer_types[:-1]
    rows = [{"prompt": "What is A?"}] * 6
    engine.update_weights(MODEL_DIR, "shipped")  # names a folder whose config can be read
    trainer = MultiverseGRPOTrainer(
        AutoModelForCausalLM.from_config(settings),
        latency_reward,
        config(tmp_path),
        Dataset.from_list(rows),
        rollout_func=MultiverseRollout(engine, tokenizer),
        processing_class=tokenizer,
    )
    with pytest.raises(EngineError, match=r"num_hidden_layers is \d+, the policy's \d+"):
        trainer.train()
    ids, logprobs, _ = engine.generate([5, 6, 7], {"max_new_tokens": 2, "temperature": 0.0})
    assert len(ids) == len(logprobs) == 2


def test_refused_tensors_fall_back_to_disk(engine: EngineClient) -> None:
    """On the real server, which knows no group of that name."""
    handover = Handover(engine, "auto")
    seen: list[str] = []

    def refuse(buckets: Any, version: str, ranks: int = 1) -> None:
        seen.append(version)
        body = {"names": [], "dtypes": [], "shapes": [], "group_name": "nobody's"}
        engine.in_session(lambda _: engine.control("/update_weights_from_distributed", body), [[]])

    engine.update_tensors = refuse  # type: ignore[method-assign]
    with pytest.warns(UserWarning, match="by disk from here on"):
        handover.give(tiny_policy(), "fallback")
    assert seen == ["fallback"]
    _, _, meta = engine.generate([5, 6, 7], {"max_new_tokens": 2})
    assert meta["weight_version"] == "fallback"


_PARALLEL = task.prompt("", "parallel").strip()
