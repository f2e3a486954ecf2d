"""What a network sees of an image: weak, strong and evaluation views."""
