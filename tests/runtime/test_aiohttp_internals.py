"""The private interfaces of aiohttp that we use are still the ones that we have read."""

from __future__ import annotations

import hashlib
import inspect
from importlib import metadata
from pkgutil import resolve_name

import pytest

READ = {
    "aiohttp.base_protocol:BaseProtocol.resume_reading": "21dee847a31af724",
    "aiohttp.client:ClientSession._request": "32986b8105faf5f8",
    "aiohttp.client_proto:ResponseHandler": "da5da6215c0ef3a0",
    "aiohttp.client_reqrep:ClientRequest.__init__": "8636fdb3a4b93b5f",
    "aiohttp.client_reqrep:ClientRequest.send": "82b495aa06760c64",
    "aiohttp.client_reqrep:ClientRequest.update_body_from_data": "05b09c13b46521ad",
    "aiohttp.client_reqrep:ClientResponse.__init__": "3ea35c3069aa9535",
    "aiohttp.connector:BaseConnector._get": "4795a63c99f266c8",
    "aiohttp.connector:BaseConnector._release": "105426e5b03d8213",
    "aiohttp.connector:TCPConnector._create_proxy_connection": "639a557d5d48ef98",
    "aiohttp.streams:StreamReader.feed_data": "7548cdda3ea70bf8",
}


@pytest.mark.parametrize(("name", "digest"), READ.items())
def test_the_internals_of_aiohttp_are_those_that_we_have_read(name, digest):
    """After an upgrade: read what has changed, mend `aiohttp_internals`, name the version there, then note it here."""
    found = hashlib.sha256(inspect.getsource(resolve_name(name)).encode()).hexdigest()[:16]
    assert found == digest, f"aiohttp {metadata.version('aiohttp')} has changed {name}: {found}"


def test_what_is_replaced_by_name_is_used_under_that_name():
    assert "_retry_connection" in resolve_name("aiohttp.client:ClientSession").ATTRS
    constructor = inspect.getsource(resolve_name("aiohttp.connector:BaseConnector.__init__"))
    assert "self._factory = functools.partial(ResponseHandler, loop=loop)" in constructor
