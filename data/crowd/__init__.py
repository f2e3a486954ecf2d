"""What a crowd answered, and the labels that follow from it."""
