"""What is done now and then: retention, backups, key rotation, deadlines, following the wall clock."""
