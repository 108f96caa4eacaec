"""PostgreSQL connections, and transactions that end in time.

A server that vanishes (a cut cable, a failed host) leaves its client waiting for ever, and a client that is frozen in a
transaction keeps its locks. So each transaction has a time limit, after which its connection is closed and its caller
gets an error, and the server ends transactions that stand still.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final

import asyncpg
import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from bridge.domain.database_url import PostgresTarget, postgres_target
from bridge.domain.errors import DatabaseRefused

PostgresError, DriverError = asyncpg.PostgresError, asyncpg.InterfaceError
ANSWER_S: Final = 15.0  # the longest transaction of a working day takes some tens of milliseconds
QUEUE_S: Final = 10.0  # for a free connection
STANDSTILL_S: Final = 3.0  # without a statement inside a transaction; then the server ends it and frees its locks
TRANSACTION_S: Final = 10.0  # the server's own limit, where it has one (17 and newer)
# Connection exceptions, no resources, operator intervention (shutdown, start-up), I/O errors.
_SERVER_FAULTS: Final = ("08", "53", "57P", "58")
_TIMED_OUT, _READ_ONLY = ("25P03", "25P04", "57014"), "25006"  # ended by one of our limits; the server is a standby
# serialization_failure, deadlock_detected, unique_violation (two transactions inserted the same row)
_CONFLICTS: Final = {"40001", "40P01", "23505"}

GONE: Final = (
    InterfaceError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the driver's own, about a connection that broke under its last statement
    OSError,
    TimeoutError,
    sa.exc.TimeoutError,
)
"""Errors of a database that cannot be reached, besides those for which `is_gone` is true."""

_TOO_MANY: Final = "53300"
_MORE_CONNECTIONS: Final = "raise max_connections of PostgreSQL or the limit of the role, or end what holds connections"

# Set on every connection, because a role or a database may have other defaults. Not in the startup message: a pooler
# refuses parameters there that it does not know.
_SESSION: Final = {
    "default_transaction_isolation": "read committed",
    "statement_timeout": "0",
    "lock_timeout": "0",
    # The server notices a vanished client in about 11 s, not in two hours.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}
# Every statement of a working day looks up by an index. Where most of a table is due, the planner would rather read all
# of it for a claim of a thousand rows. Without an index such a plan is costed so high that older servers compile it.
_BY_INDEX: Final = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off", "jit": "off"}
# Connections that repeat a few prepared statements plan each once, as look-ups by key. In a table of a few rows the
# planner may still choose to read all of them, so a plan is kept for some seconds only.
_PLAN_ONCE: Final = {"plan_cache_mode": "force_generic_plan", "enable_bitmapscan": "off", "enable_material": "off"}
_PLAN_KEPT_S: Final = 5


def open_engine(url: URL, connections: int) -> AsyncEngine:
    """An engine with at most `connections`; none is opened yet."""
    target = target_of(url)
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: _connect(target, _limits() | _BY_INDEX),
        pool_size=connections,
        max_overflow=0,
        pool_timeout=QUEUE_S,
    )
    sa.event.listen(engine.sync_engine, "checkout", _refuse_closed)
    # The driver would say goodbye and wait, for ever where a connection has gone silent.
    sa.event.listen(engine.sync_engine, "close", lambda connection, _record: _close_now(connection.driver_connection))
    return engine


def open_unlimited_engine(url: URL) -> AsyncEngine:
    """An engine without limits on transactions, for migrations."""
    target = target_of(url)
    return create_async_engine("postgresql+asyncpg://", async_creator=lambda: _connect(target, {}), poolclass=NullPool)


async def connect_to_listen(url: URL) -> Any:
    """A connection of the driver, which only listens; raises the driver's errors and OSError."""
    return await _connect(target_of(url), {})


def target_of(url: URL) -> PostgresTarget:
    """The URL as the driver takes it; DatabaseRefused names a parameter that it does not understand."""
    try:
        return postgres_target(url.render_as_string(hide_password=False))
    except ValueError as error:
        raise DatabaseRefused(f"[database] url: {error}") from None


def _limits() -> dict[str, str]:
    return {
        "statement_timeout": f"{TRANSACTION_S:g}s",
        "idle_in_transaction_session_timeout": f"{STANDSTILL_S:g}s",
    }


async def _connect(target: PostgresTarget, limits: Mapping[str, str], prepared_kept_s: int = 300) -> Any:
    connection = await asyncpg.connect(
        target.dsn,
        timeout=target.connect_timeout_s,
        server_settings=target.server_settings,
        max_cached_statement_lifetime=prepared_kept_s,
    )
    session = {**_SESSION, **limits}
    if limits and connection.get_server_version() >= (17,):
        session["transaction_timeout"] = f"{TRANSACTION_S:g}s"
    try:
        await connection.execute("; ".join(f"SET {name} = '{value}'" for name, value in session.items()))
    except BaseException:
        connection.terminate()
        raise
    return connection


def _refuse_closed(connection: Any, _record: object, _fairy: object) -> None:
    """Replace a connection that the server has closed. A ping before each transaction would take three round trips."""
    if connection.driver_connection.is_closed():
        raise sa.exc.InvalidatePoolError


@contextlib.asynccontextmanager
async def transaction(
    engine: AsyncEngine, within_s: float = ANSWER_S, *, is_snapshot: bool = False
) -> AsyncIterator[AsyncConnection]:
    """A transaction that commits `within_s` seconds, or fails because its connection is closed.

    `is_snapshot`: all its statements see the same moment.
    """
    async with engine.connect() as connection:
        if is_snapshot:
            await connection.execution_options(isolation_level="REPEATABLE READ")
        raw = await connection.get_raw_connection()
        try:
            with _limit(raw.driver_connection, within_s):
                async with connection.begin():
                    yield connection
        except DBAPIError as error:
            if _sqlstate(error) == _READ_ONLY:  # the next connection may reach the server that has taken over
                _close_now(raw.driver_connection)
            raise


@contextlib.contextmanager
def _limit(connection: Any, within_s: float) -> Iterator[None]:
    """Close a driver's connection after `within_s` seconds, which ends what it is used for."""
    timer = asyncio.get_running_loop().call_later(within_s, _close_now, connection)
    try:
        yield
    except AttributeError as error:  # the driver's own, if it is closed between two steps of one call
        if connection.is_closed():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()


def _close_now(connection: Any) -> None:
    connection.terminate()


def is_gone(error: DBAPIError | asyncpg.PostgresError) -> bool:
    """Whether the database could not be reached or was lost; False if the statement itself is at fault."""
    if isinstance(error, OperationalError | InterfaceError) or getattr(error, "connection_invalidated", False):
        return True
    return _sqlstate(error).startswith((*_SERVER_FAULTS, *_TIMED_OUT, _READ_ONLY))


def is_full(error: BaseException) -> bool:
    """Whether the server has no connection left for us."""
    return _sqlstate(error) == _TOO_MANY


def is_conflict(error: DBAPIError | asyncpg.PostgresError) -> bool:
    """Whether the transaction conflicted with another one, so that repeating it may succeed."""
    return _sqlstate(error) in _CONFLICTS


def _sqlstate(error: BaseException) -> str:
    return str(getattr(getattr(error, "orig", error), "sqlstate", None) or "")


class DirectConnections:
    """Connections for statements that are transactions of their own; SQLAlchemy would take three times as long.

    The driver prepares each statement once for each connection. Where one is lost, those that lie idle may have gone
    silent with it, and each would cost a caller `ANSWER_S`: they are closed too, as SQLAlchemy does in its pool.
    """

    def __init__(self, url: URL, most: int) -> None:
        self._target = target_of(url)
        self._free = asyncio.Semaphore(most)
        self._idle: list[Any] = []

    async def fetch_value(self, text: str, values: Sequence[Any]) -> Any:
        """The first value of the first row, after the commit; raises the driver's errors, or one of `GONE`."""
        async with asyncio.timeout(QUEUE_S) if self._free.locked() else contextlib.nullcontext():
            await self._free.acquire()
        try:
            connection = await self._take()
            try:
                with _limit(connection, ANSWER_S):
                    return await connection.fetchval(text, *values)
            except asyncio.CancelledError:
                _close_now(connection)
                raise
            except BaseException as error:
                if not isinstance(error, asyncpg.PostgresError) or is_gone(error):
                    _close_now(connection)
                    self.close()
                raise
            finally:
                self._idle.append(connection)
        finally:
            self._free.release()

    async def _take(self) -> Any:
        while self._idle:
            if not (connection := self._idle.pop()).is_closed():
                return connection
        return await _connect(self._target, _limits() | _BY_INDEX | _PLAN_ONCE, _PLAN_KEPT_S)

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            _close_now(self._idle.pop())


def reason_of(error: BaseException) -> str:
    """The message of the server or the system, without what libraries add to it; what to do if none answers."""
    match error:
        case TimeoutError() | sa.exc.TimeoutError():
            return "no answer in time"
        case ssl.SSLError():
            return f"TLS failed: {getattr(error, 'verify_message', None) or error.reason or error}"
        case OSError(errno=int(number)) if number > 0:
            return f"{os.strerror(number)}; start PostgreSQL, or correct host and port in [database] url"
        case ConnectionError() if "SSL" in str(error):
            return "the server offers no TLS, which sslmode asks for"
        case ConnectionError() | asyncpg.InternalClientError():  # asyncpg's own, about calls inside it
            return "the connection broke"
        case OSError():
            return f"{error.strerror or error}; correct the host in [database] url"
        case _:
            cause = error.orig if isinstance(error, DBAPIError) else error
            said = next(iter(str(cause).splitlines()), type(cause).__name__)
            return f"{said}; {_MORE_CONNECTIONS}" if is_full(error) else said
