"""How one process runs a plan: stages, splits, workers, operators, the state between stages."""
