"""The SQLite engine: one writer, a pool of readers, the file, its lock, backups and key file."""
