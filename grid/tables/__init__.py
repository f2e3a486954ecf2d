"""Tables of a result set, in every format."""
