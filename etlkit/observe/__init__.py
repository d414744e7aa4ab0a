"""What people see of a run: the event log, progress while it runs, the story afterwards, the report."""
