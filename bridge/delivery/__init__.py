"""Deliveries to subscribers: claim what is due, sign it, post it, judge the result, record the attempt.

`deliverer` is the loop. `limiter` bounds concurrency and rates, `sender` makes one POST, `outcome` judges it,
`address_guard` decides which addresses may be dialled, `replayer` makes selected events due again.
"""
