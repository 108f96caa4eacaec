"""Definitions that several tests write into a folder."""

JOBS = """\
schema = 1
name = "jobs"
[run]
get = "/jobs/{id}"
[read]
status = "state"
[status]
running = ["RUN"]
"""
