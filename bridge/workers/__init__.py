"""The standing workers: what the daemon does all day.

poller looks at runs, deliverer posts events, chores keep house; each is a pass that the one loop in
`loop` repeats. Tests call the pass, never the loop.
"""
