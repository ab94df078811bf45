"""Trees through SGLang's scheduler: entry, fork and join, memory, ends."""
