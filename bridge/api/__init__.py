"""The HTTP door: one route table that registers the routes and emits OpenAPI; handlers by noun.

Never imports workers or providers: what it needs of them stands in `ports`, and the daemon hands it in.
"""
