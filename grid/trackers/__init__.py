"""Mirrors of the ledger for other tools: they are never read as truth, and hold up nothing."""
