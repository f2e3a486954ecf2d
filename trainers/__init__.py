"""Training: recipes, models, the two methods, one loop. May import ``data``."""
