"""Chores: retention, backups, key rotation, deadlines, following the wall clock."""
