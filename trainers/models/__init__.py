"""Networks: created from recipes, and their pretrained weights."""
