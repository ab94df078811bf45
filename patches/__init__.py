"""All contact with SGLang's internals: one module per subsystem touched."""
