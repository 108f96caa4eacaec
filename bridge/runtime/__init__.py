"""The parts that any daemon has: loops, supervision, systemd, metrics, logs. No rules about runs or deliveries."""
