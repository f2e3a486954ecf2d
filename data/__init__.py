"""Datasets: the format, splits, orders, views and batches. Imports nothing else of the project."""
