"""The paper's analyses, each one command: ``multiverse analyse``."""
