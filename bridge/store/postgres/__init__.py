"""The PostgreSQL engine: connections, transactions, LISTEN/NOTIFY."""
