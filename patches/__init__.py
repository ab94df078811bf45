"""All contact with SGLang's internals. One module per SGLang subsystem touched, each naming its
targets, why a public seam does not do, and the SGLang version it was verified on."""
