"""Telling subscribers: leases due deliveries, signs and posts them, judges the answers, records the attempts.

`deliverer` is the loop. `limiter` bounds concurrency and rates, `sender` makes one POST, `outcome` judges it,
`address_guard` decides which addresses may be dialled.
"""
