"""The plan, the ledger, and the state of every cell that follows from the two."""
