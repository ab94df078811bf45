"""Self-distillation: a served model's own answers, gated, and the best of them chosen."""
