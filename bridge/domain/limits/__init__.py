"""How fast a credential may be used: the adaptive rate and concurrency limits, and who may send next."""
