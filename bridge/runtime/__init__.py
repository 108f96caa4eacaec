"""What any daemon has: the loop around a pass, systemd, metrics, logs. Knows nothing of runs or deliveries."""
