"""The only room that speaks SQL.

`database.Database` opens it; `read(work)` and `write(work)` run a plain function with a transaction (`Tx`) that
carries `now`. Such a function is synchronous, so that no network call can happen inside a transaction. One file per
entity, a function per statement; values in, dataclasses out. SQLAlchemy Core, never the ORM.
"""
