"""Views of an image that networks see: weak, strong and for evaluation."""
