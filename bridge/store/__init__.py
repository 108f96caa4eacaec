"""The only room that speaks SQL.

`database.Database` opens it; `read(fn)` and `write(fn)` run a plain function with a transaction that
carries `now`. Such a function is synchronous on purpose: no network can happen inside a transaction.
One file per entity, a function per statement, values in, dataclasses out. Core, never the ORM.
"""
