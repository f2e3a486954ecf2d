"""What fits where on a cluster, and what its nodes must have."""
