"""Fork/join as pure logic: what a tree of paths does with each token, free of SGLang and torch."""
