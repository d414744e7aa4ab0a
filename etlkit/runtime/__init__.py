"""The loop that feeds events to the machine and carries its instructions out; opening a state, signals, recovery."""
