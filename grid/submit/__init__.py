"""A grid as a job on a Ray cluster that is elsewhere."""
