"""What the results say, and how surely."""
