"""The grid: experiment, plan, ledger, search, execution, results, command line."""
