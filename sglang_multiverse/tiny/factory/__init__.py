"""What makes the tiny model: its tokenizer, weights, training and exam.

``python -m sglang_multiverse.tiny.factory --out DIR`` trains one from seeds alone.
"""
