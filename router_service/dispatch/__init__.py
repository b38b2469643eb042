"""From decisions to completions: the pure planner, the runner, the budget ledger and `ask`."""
