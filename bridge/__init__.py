"""runbridge: polls runs at providers once for everyone, and sends signed webhooks."""

__version__ = "0.1.0"
