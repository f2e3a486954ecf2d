"""Experiment files that come with semigrid."""
