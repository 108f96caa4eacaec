"""Which network addresses a webhook may reach."""
