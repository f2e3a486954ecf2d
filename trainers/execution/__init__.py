"""What a training needs around it: its place among the workers, checkpoints, progress."""
