"""What other tools show of a run: mirrors of the ledger, never read as truth."""
