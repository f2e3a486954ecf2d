"""The plan, the ledger, and what the two say of every cell."""
