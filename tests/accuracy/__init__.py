"""Real image sets, pretrained weights, and what semigrid makes of them."""
