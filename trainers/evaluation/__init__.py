"""Predictions of a network, what they are worth, and how trainings are compared by them."""
