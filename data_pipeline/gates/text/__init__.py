"""Gates on the grammar of a text: tags, numbers, shape, and whether its blocks pay."""
