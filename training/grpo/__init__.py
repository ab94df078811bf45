"""Reinforcement learning: rollouts from a served model, its rewards, and TRL's GRPO over them."""
