"""Parameters of a PostgreSQL URL: translated, or refused by their names."""

from __future__ import annotations

import pytest

from bridge.domain.database_url import CONNECT_TIMEOUT_S, postgres_target

BASE = "postgresql://u:p%40ss@db.example:5432/bridge"


def test_a_url_without_parameters_stays_as_it_is():
    target = postgres_target(BASE)
    assert (target.dsn, target.connect_timeout_s) == (BASE, CONNECT_TIMEOUT_S)
    assert target.server_settings == {"application_name": "runbridge"}


def test_what_the_driver_knows_is_passed_on_and_the_rest_translated():
    query = "sslmode=verify-full&sslrootcert=/etc/ssl/ca.pem&application_name=a%20b&connect_timeout=3&options=-c%20geqo%3Doff"
    target = postgres_target(f"{BASE}?{query}&channel_binding=prefer&client_encoding=utf8")
    assert target.dsn == f"{BASE}?sslmode=verify-full&sslrootcert=%2Fetc%2Fssl%2Fca.pem"
    assert target.connect_timeout_s == 3
    assert target.server_settings == {"application_name": "a b", "options": "-c geqo=off"}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sslmod=require", "sslmod: unknown parameter; did you mean `sslmode`"),
        ("sslmode=on", "sslmode=on: only"),
        ("channel_binding=require", "channel_binding=require.*verify-full"),
        ("connect_timeout=soon", "connect_timeout=soon"),
        ("port=0", "port 0: expected a number from 1 to 65535"),
        ("port=5432,99999", "port 99999"),
        ("port=five", "port five"),
        ("connect_timeout=-1", "connect_timeout=-1"),
        ("hostaddr=10.0.0.1", "hostaddr=10.0.0.1.*as the host"),
        ("keepalives_idle=5", "keepalives_idle"),
        ("target_session_attrs=standby", "target_session_attrs=standby.*writes"),
        ("client_encoding=latin1", "UTF-8"),
        ("prepared_statement_cache_size=0", "prepared_statement_cache_size: unknown parameter"),
        ("sslmode", "sslmode"),
    ],
)
def test_every_other_parameter_is_refused_by_its_name(query: str, said: str):
    with pytest.raises(ValueError, match=said):
        postgres_target(f"{BASE}?{query}")


def test_the_name_of_the_application_wins_over_the_fallback_in_any_order():
    names = ["application_name=a", "fallback_application_name=b"]
    for query in ("&".join(names), "&".join(reversed(names))):
        assert postgres_target(f"{BASE}?{query}").server_settings == {"application_name": "a"}


@pytest.mark.parametrize("base", ["postgresql://h:0/d", "postgresql://u:5@h:99999/d", "postgresql://a:1,b:65536/d"])
def test_a_port_that_does_not_exist_is_refused(base: str):
    """The driver raised an OverflowError for it."""
    with pytest.raises(ValueError, match="expected a number from 1 to 65535"):
        postgres_target(base)


def test_digits_of_a_password_with_a_slash_are_no_port():
    """They were refused as one, in a message that quoted them."""
    base = "postgresql://u:12345678/x@h:5432/d"
    assert postgres_target(base).dsn == base
    with pytest.raises(ValueError, match="port 99999:"):
        postgres_target("postgresql://u:12345678/x@h:99999/d")
