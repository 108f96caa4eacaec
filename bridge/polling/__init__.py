"""Watching runs: one poller per connection decides when to poll, polls, and records what changed.

`poller` is the loop. `schedule` holds the runs in memory and their due times, `run_leases` what this node has leased,
`connection_client` the HTTP requests, limits and health of a connection, `poll_results` what an answer changes.
"""
