"""Secrets at rest on both engines: nothing in clear, bound to its row, encrypted again after a rotation."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from bridge.domain.encryption import Unreadable, new_key, parse_keys
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.errors import Conflict
from bridge.domain.ids import new_id
from bridge.domain.secret import Secret
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.maintenance.key_rotation import reencrypt_all
from bridge.store import encryption, endpoints, idempotency
from bridge.store.database import Database
from bridge.store.idempotency import StoredResponse
from bridge.store.tables import endpoint_secrets
from bridge.store.tables import endpoints as endpoint_rows
from bridge.store.transaction import Tx
from tests.support.watching import add_endpoint, open_database, register

TOKEN = "Bearer header-token-canary"
KEYS = parse_keys(new_key())


@pytest.fixture
def database(either: Database) -> Database:
    either.keyring.use(KEYS)
    return either


async def stored(database: Database) -> str:
    """Everything that the tables of secrets hold, as text."""

    def look(tx: Tx) -> str:
        names = ("endpoints", "endpoint_secrets", "idempotency_keys")
        return str([tx.connection.execute(sa.text(f"SELECT * FROM {name}")).all() for name in names])

    return await database.read(look)


async def secrets_of(database: Database, endpoint_id: str) -> list[str]:
    found = await database.read(lambda tx: endpoints.live_secrets(tx, [endpoint_id]))
    return [live.secret.reveal() for live in found[endpoint_id]]


async def keep(database: Database, body: bytes) -> None:
    await database.write(lambda tx: idempotency.store_responses(tx, [("k-1", StoredResponse("f", 201, body))]))


async def test_signing_secrets_header_values_and_kept_answers_lie_sealed_and_come_back(database: Database) -> None:
    secret, one_run = new_secret(), new_secret()
    endpoint = await add_endpoint(database, secret=secret, headers={"authorization": TOKEN})
    run = await register(database)
    webhook = Endpoint(
        id=new_id("ep"), url="https://a.example", source=EndpointSource.RUN, run_id=run.id, headers={"x-key": TOKEN}
    )
    await database.write(lambda tx: endpoints.insert_run_endpoints(tx, [(webhook, Secret(one_run))]))
    await keep(database, f'{{"secret":"{secret}","é":1}}'.encode())
    lying = await stored(database)
    for text in (secret, one_run, TOKEN, secret.removeprefix("whsec_")):
        assert text not in lying
    assert await secrets_of(database, endpoint.id) == [secret]
    assert await secrets_of(database, webhook.id) == [one_run]
    found = await database.read(lambda tx: endpoints.get_endpoint(tx, endpoint.id))
    assert found is not None
    assert (found.headers, found.fault) == ({"authorization": TOKEN}, None)
    (answer,) = await database.read(lambda tx: idempotency.find_responses(tx, ["k-1"]))
    assert answer is not None
    assert answer.body == f'{{"secret":"{secret}","é":1}}'.encode()


async def test_a_ciphertext_swapped_to_another_row_is_refused(database: Database) -> None:
    """Write access to the database is not enough to sign one subscriber's deliveries with another's secret."""
    one, two = await add_endpoint(database), await add_endpoint(database)

    def swap(tx: Tx) -> None:
        taken = tx.connection.execute(
            sa.select(endpoint_secrets.c.secret).where(endpoint_secrets.c.endpoint_id == one.id)
        ).scalar()
        changed = sa.update(endpoint_secrets).where(endpoint_secrets.c.endpoint_id == two.id)
        tx.connection.execute(changed.values(secret=taken))

    await database.write(swap)
    assert await secrets_of(database, one.id)
    with pytest.raises(Unreadable, match="another row"):
        await secrets_of(database, two.id)
    await database.write(
        lambda tx: endpoints.rotate_secret(tx, two.id, Secret("whsec_new"), old_until=tx.now.replace(year=2099))
    )
    assert await secrets_of(database, two.id) == ["whsec_new"], "a fresh secret heals it at once"


async def test_headers_swapped_to_another_row_are_a_fault_that_setting_them_again_heals(database: Database) -> None:
    one, two = await add_endpoint(database, headers={"x-a": "1"}), await add_endpoint(database, headers={"x-b": "2"})

    def swap(tx: Tx) -> None:
        raw = sa.select(sa.type_coerce(endpoint_rows.c.headers, sa.Text)).where(endpoint_rows.c.id == one.id)
        taken = tx.connection.execute(raw).scalar_one()
        tx.connection.execute(sa.text("UPDATE endpoints SET headers=:h WHERE id=:i"), {"h": taken, "i": two.id})

    await database.write(swap)
    faulty = await database.read(lambda tx: endpoints.get_endpoint(tx, two.id))
    assert faulty is not None
    assert faulty.headers == {}
    assert "another row" in str(faulty.fault)
    await database.write(lambda tx: endpoints.update_endpoint(tx, faulty))
    assert (await database.read(lambda tx: endpoints.get_endpoint(tx, two.id))) == faulty, "it is not lost by a change"


async def test_a_new_key_encrypts_everything_again_and_an_ordinary_start_writes_nothing(database: Database) -> None:
    secret = new_secret()
    endpoint = await add_endpoint(database, secret=secret, headers={"authorization": TOKEN})
    await add_endpoint(database)
    await keep(database, b'{"secret":"x"}')
    old = await stored(database)
    assert await reencrypt_all(database) == (0, [])
    assert await stored(database) == old
    new = parse_keys(new_key())
    database.keyring.use([*new, *KEYS])
    assert await reencrypt_all(database) == (4, [])
    database.keyring.use(new)
    assert await reencrypt_all(database) == (0, [])
    assert await secrets_of(database, endpoint.id) == [secret]
    found = await database.read(lambda tx: endpoints.get_endpoint(tx, endpoint.id))
    assert found is not None
    assert found.headers == {"authorization": TOKEN}


async def test_what_was_plain_is_encrypted_once_there_is_a_key(database: Database) -> None:
    database.keyring.use([])
    secret = new_secret()
    endpoint = await add_endpoint(database, secret=secret, headers={"authorization": TOKEN})
    assert secret in await stored(database)
    database.keyring.use(KEYS)
    assert await reencrypt_all(database) == (2, [])
    lying = await stored(database)
    assert secret not in lying
    assert TOKEN not in lying
    assert await secrets_of(database, endpoint.id) == [secret]


async def test_encrypting_again_goes_on_over_many_batches_and_past_what_no_key_opens(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encryption, "BATCH", 2)
    lost = await add_endpoint(database)
    keys = parse_keys(new_key())
    database.keyring.use(keys)
    kept = [await add_endpoint(database, headers={"x": str(number)}) for number in range(5)]
    database.keyring.use([*parse_keys(new_key()), *keys])
    count, unreadable = await reencrypt_all(database)
    assert count == 10
    assert len(unreadable) == 1
    with pytest.raises(Unreadable, match="old_keys"):
        await secrets_of(database, lost.id)
    for endpoint in kept:
        assert await secrets_of(database, endpoint.id)


async def test_a_kept_answer_that_no_key_opens_is_a_conflict_and_not_another_answer(database: Database) -> None:
    await keep(database, b"{}")
    database.keyring.use(parse_keys(new_key()))
    with pytest.raises(Conflict, match="new key"):
        await database.read(lambda tx: idempotency.find_responses(tx, ["k-1"]))


async def test_the_file_itself_holds_no_secret(sqlite_url: str, tmp_path: Path) -> None:
    secret = new_secret()
    async with open_database(sqlite_url) as database:
        database.keyring.use(parse_keys(new_key()))
        await add_endpoint(database, secret=secret, headers={"authorization": TOKEN})
        content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    content += b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert len(content) > 4096
    for text in (secret, TOKEN):
        assert text.encode() not in content
