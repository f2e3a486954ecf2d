"""``builtin://patterns``: generated images of patterned products, and generated crowd answers."""
