"""From images to a dataset: gather, clean, curate, write, check."""
