"""What is done now and then: retention, key rotation, deadlines, noticing that the wall clock was set."""
