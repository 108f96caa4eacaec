"""Watching runs: one poller per connection decides when to poll, polls, and records what changed.

`poller` is the loop. `schedule` holds the runs in memory and their due times, `run_leases` knows what this node has
leased, `planner` says when to poll a run next, `connection_client` sends the requests, and `poll_results` records what
an answer changes. `list_poller` observes many runs with one request; `discovery` registers those it finds.
"""
