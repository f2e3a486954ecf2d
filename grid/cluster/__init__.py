"""Machines of the cluster: what fits where, growth, node requirements and their checks."""
