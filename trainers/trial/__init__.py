"""A trial: its identity, its job, and how it is trained and evaluated."""
