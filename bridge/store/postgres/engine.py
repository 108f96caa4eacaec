"""PostgreSQL as this room uses it: transactions that end in time or not at all, and an ear for NOTIFY.

A server that is gone without a word (a cut cable, a failed host) leaves the client waiting for ever, and a client that
is frozen in the middle of a transaction leaves its locks behind. So every transaction here is given a time, after which
its connection is closed and whoever waits gets an error; and the server is told to end transactions that stand still.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

ANSWER_S: Final = 15.0  # the longest transaction of a working day is some tens of milliseconds
CONNECT_S: Final = 5.0
QUEUE_S: Final = 10.0  # for a free connection
STANDSTILL_S: Final = 3.0  # within a transaction; then the server ends it and frees its locks
TRANSACTION_S: Final = 10.0  # likewise, where the server can (17 and newer) though it waits for the rest of a command
# Connection exceptions, no resources, operator intervention (shutdown, start-up), I/O errors: of the server, not of ours.
_AWAY: Final = ("08", "53", "57P", "58")
_TOO_LONG, _READ_ONLY = ("25P03", "25P04"), "25006"  # ended by one of our limits; the server has become a standby
# serialization_failure, deadlock_detected, unique_violation (both saw that a row was missing and made it)
IN_EACH_OTHERS_WAY: Final = {"40001", "40P01", "23505"}

GONE: Final = (InterfaceError, OSError, TimeoutError, sa.exc.TimeoutError)
"""What it looks like when the database cannot be reached, besides `is_gone`."""


def open_engine(url: URL, connections: int) -> AsyncEngine:
    """An engine with so many connections at most; none is opened yet."""
    engine = create_async_engine(
        url.set(drivername="postgresql+asyncpg"),
        pool_size=connections,
        max_overflow=0,
        pool_timeout=QUEUE_S,
        connect_args=_CONNECT,
    )
    sa.event.listen(engine.sync_engine, "connect", _limit_transactions)
    sa.event.listen(engine.sync_engine, "checkout", _refuse_closed)
    return engine


def open_patient_engine(url: URL) -> AsyncEngine:
    """An engine without any of the limits, for migrations and for a connection that only listens."""
    driver = url.set(drivername="postgresql+asyncpg")
    return create_async_engine(
        driver, poolclass=NullPool, connect_args={"timeout": CONNECT_S, "server_settings": _SEEN}
    )


_SEEN: Final = {
    "application_name": "runbridge",
    # A client that has vanished is noticed in about 11 s, not in two hours.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}
_CONNECT: Final[dict[str, Any]] = {
    "timeout": CONNECT_S,
    "server_settings": {**_SEEN, "idle_in_transaction_session_timeout": f"{STANDSTILL_S:g}s"},
}


def _limit_transactions(connection: Any, _record: object) -> None:
    if connection.driver_connection.get_server_version() >= (17,):
        connection.run_async(lambda raw: raw.execute(f"SET transaction_timeout = '{TRANSACTION_S:g}s'"))


def _refuse_closed(connection: Any, _record: object, _fairy: object) -> None:
    """A connection that the server has closed is known to be so; a ping before each transaction is three round trips."""
    if connection.driver_connection.is_closed():
        raise sa.exc.InvalidatePoolError


@contextlib.asynccontextmanager
async def transaction(
    engine: AsyncEngine, within_s: float = ANSWER_S, *, is_snapshot: bool = False
) -> AsyncIterator[AsyncConnection]:
    """A transaction that is committed `within_s` seconds, or ends with an error because its connection is closed.

    `is_snapshot`: all its statements see the same moment.
    """
    async with engine.connect() as connection:
        if is_snapshot:
            await connection.execution_options(isolation_level="REPEATABLE READ")
        raw = await connection.get_raw_connection()
        timer = asyncio.get_running_loop().call_later(within_s, _close_now, raw.driver_connection)
        try:
            async with connection.begin():
                yield connection
        except DBAPIError as error:
            if _sqlstate(error) == _READ_ONLY:  # the next connection may lead to the server that has taken over
                _close_now(raw.driver_connection)
            raise
        finally:
            timer.cancel()


def _close_now(connection: Any) -> None:
    connection.terminate()


def is_gone(error: DBAPIError) -> bool:
    """Whether the database could not be reached or was lost, as against something wrong with the statement."""
    is_lost = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
    return is_lost or _sqlstate(error).startswith((*_AWAY, *_TOO_LONG, _READ_ONLY))


def is_conflict(error: DBAPIError) -> bool:
    """Whether two transactions stood in each other's way; the same again may go well."""
    return _sqlstate(error) in IN_EACH_OTHERS_WAY


def _sqlstate(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")
