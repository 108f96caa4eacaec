"""Schema migrations, run by `bridge.store.migrate`."""
