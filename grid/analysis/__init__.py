"""What the results say, and how surely: numbers and sentences, no tables."""
