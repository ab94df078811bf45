"""The LLM: a call and its key, who answers it (store, cassette or endpoint), at what rate and
price, and what it is told."""
