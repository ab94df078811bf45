"""What the client sees: canonical order, tags as text, thoughts, grammars, tool calls."""
