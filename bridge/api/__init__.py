"""The HTTP API: one route table that registers the routes and emits OpenAPI; handlers by noun.

It never imports workers or providers: `ports` states what it needs of them, and the daemon provides it.
"""
