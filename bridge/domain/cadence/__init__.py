"""When to poll a run next: learned durations, the cost of a poll against the cost of noticing late."""
