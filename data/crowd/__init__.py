"""Answers of a crowd, and the labels that follow from them."""
