"""The guard at work: what is dialled, what is refused, and what an operator reads."""

import asyncio
import contextlib
import socket
import threading
from ipaddress import ip_address

import aiohttp
import pytest

from bridge.delivery.address_guard import BlockedAddress, ThreadLookup, explain, guarded_session
from bridge.domain.addresses.policy import AddressPolicy, AllowRule, Trust, judge
from tests.support.raw_server import answer, raw_server, says

LOCAL = AddressPolicy(Trust.API, allow=(AllowRule.parse("127.0.0.0/8"),))
STRICT = AddressPolicy(Trust.API)


class Names:
    """A resolver with scripted answers for each name, the last one for ever; it counts."""

    def __init__(self, **answers):
        self.answers = {name.replace("_", "."): list(answer) for name, answer in answers.items()}
        self.asked = []

    async def __call__(self, name):
        self.asked.append(name)
        answers = self.answers[name]
        return answers.pop(0) if len(answers) > 1 else answers[0]


async def fetch(url, policy, lookup, *, is_encrypted=False):
    """The status of a POST through a guarded session, or the error that names why there is none."""
    async with guarded_session(policy, is_encrypted=is_encrypted, lookup=lookup) as session:
        try:
            async with session.post(url, data=b"{}") as response:
                return response.status
        except aiohttp.ClientConnectorError as error:
            return error.os_error


@pytest.fixture
async def server():
    async with raw_server(says(answer())) as raw:
        yield raw


async def test_a_name_that_leads_to_an_allowed_address_is_dialled_there(server):
    names = Names(hooks_test=[["127.0.0.1"]])
    assert await fetch(f"http://hooks.test:{server.port}/", LOCAL, names) == 200
    assert names.asked == ["hooks.test"]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "localhost", "x.localhost"])
async def test_private_literals_and_localhost_are_refused_without_asking_any_resolver(server, host):
    """aiohttp never shows a literal to its resolver: only the dial itself sees it."""
    names = Names()
    refusal = await fetch(f"http://{host}:{server.port}/", STRICT, names)
    assert isinstance(refusal, BlockedAddress)
    assert refusal.verdict.rule == "loopback"
    assert (server.connections, names.asked) == (0, [])


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["127.0.0.1", "::1"], ["127.0.0.1", "64:ff9b::a00:1"]],
)
async def test_one_forbidden_address_spoils_the_whole_answer(server, addresses):
    refusal = await fetch(f"http://hooks.test:{server.port}/", LOCAL, Names(hooks_test=[addresses]))
    assert isinstance(refusal, BlockedAddress)
    assert server.connections == 0


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "::1", "fe80::1%lo", "::ffff:10.0.0.1", "0.0.0.0"])
async def test_a_name_is_judged_by_where_it_leads(server, address):
    refusal = await fetch(f"http://hooks.test:{server.port}/", LOCAL, Names(hooks_test=[[address]]))
    assert isinstance(refusal, BlockedAddress)
    assert server.connections == 0


async def test_a_name_that_changes_between_check_and_dial_gains_nothing(server):
    """One query per attempt, and the dial goes to the address that was judged."""
    names = Names(hooks_test=[["127.0.0.1"], ["10.0.0.1"]])
    url = f"http://hooks.test:{server.port}/"
    assert await fetch(url, LOCAL, names) == 200
    assert len(names.asked) == 1
    assert isinstance(await fetch(url, LOCAL, names), BlockedAddress)


async def test_localhost_needs_only_one_of_its_addresses_allowed(server):
    assert await fetch(f"http://localhost:{server.port}/", LOCAL, Names()) == 200
    assert await fetch(f"http://my-app.localhost.:{server.port}/", LOCAL, Names()) == 200


async def test_our_own_listen_address_is_not_dialled(server):
    policy = AddressPolicy(Trust.API, allow=LOCAL.allow, own=((ip_address("127.0.0.1"), server.port),))
    refusal = await fetch(f"http://localhost:{server.port}/", policy, Names())
    assert refusal.verdict.rule == "own address"
    assert server.connections == 0


def private_address_of_this_machine():
    """An address that is not loopback, as another machine would dial it, if this machine has one."""
    for family, there in [
        (socket.AF_INET, "192.0.2.1"),
        (socket.AF_INET, "10.0.0.1"),
        (socket.AF_INET6, "2001:db8::1"),
    ]:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((there, 9))
            address = probe.getsockname()[0]
            if judge(address, 8484, AddressPolicy(Trust.CONFIG), is_encrypted=False).allowed:
                return address
    return "127.0.0.1"  # a machine with no network


@pytest.mark.parametrize("everywhere", ["0.0.0.0", "::"])
async def test_every_address_of_this_machine_is_our_own_where_we_listen_on_all_of_them(everywhere):
    address = private_address_of_this_machine()
    url = f"http://{f'[{address}]' if ':' in address else address}"
    policy = AddressPolicy(Trust.CONFIG, own=((ip_address(everywhere), 8484),))
    refusal = await fetch(f"{url}:8484/", policy, Names())
    assert (refusal.verdict.rule, refusal.verdict.allow_line) == ("own address", None)
    assert (await fetch("http://hooks.test:8484/", policy, Names(hooks_test=[[address]]))).verdict.rule == "own address"
    assert [verdict.rule for _, verdict in (await explain(f"{url}:8484/", policy)).verdicts] == ["own address"]
    assert (await explain(f"{url}:8485/", policy)).allowed


async def test_the_addresses_of_other_machines_are_not_our_own():
    policy = AddressPolicy(Trust.CONFIG, own=((ip_address("0.0.0.0"), 8484),))
    for address in ("10.255.255.254", "fd00::dead:beef", "8.8.8.8"):
        explained = await explain("https://hooks.test:8484/", policy, lookup=Names(hooks_test=[[address]]))
        assert explained.allowed


async def test_public_addresses_are_not_dialled_over_http():
    refusal = await fetch("http://hooks.test/", STRICT, Names(hooks_test=[["8.8.8.8"]]))
    assert refusal.verdict.rule == "https"


async def test_a_session_speaks_the_scheme_it_was_judged_for_alone(server):
    async with guarded_session(LOCAL, is_encrypted=True, lookup=Names()) as session:
        with pytest.raises(aiohttp.NonHttpUrlClientError):
            await session.post(f"http://127.0.0.1:{server.port}/")


async def test_proxies_and_netrc_in_the_environment_are_ignored(server, monkeypatch, tmp_path):
    """Through a proxy the guard would judge the proxy's address, and the proxy would dial anything."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://10.255.255.1:3128")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login canary password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert await fetch(f"http://127.0.0.1:{server.port}/", LOCAL, Names()) == 200
    assert b"authorization" not in server.requests[0].lower()


async def test_cookies_are_not_kept():
    async with raw_server(says(answer("200 OK", b"", "Set-Cookie: canary=1; Path=/"))) as raw:
        async with guarded_session(LOCAL, is_encrypted=False, lookup=Names()) as session:
            for _ in range(2):
                async with session.post(f"http://127.0.0.1:{raw.port}/"):
                    pass
        assert b"canary" not in raw.requests[1]


# --- looking up names ---


@pytest.fixture
def resolver(monkeypatch):
    """getaddrinfo that hangs until it is released; it counts."""

    class Resolver:
        def __init__(self):
            self.released, self.asked = threading.Event(), []

        def getaddrinfo(self, name, *args, **kwargs):
            self.asked.append(name)
            self.released.wait()
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))] * 2

    resolver = Resolver()
    monkeypatch.setattr("bridge.delivery.address_guard.socket.getaddrinfo", resolver.getaddrinfo)
    yield resolver
    resolver.released.set()


async def test_callers_of_the_same_name_share_one_query_and_may_leave_it(resolver):
    lookup = ThreadLookup()
    leaving = asyncio.create_task(lookup("hooks.test"))
    staying = asyncio.create_task(lookup("hooks.test"))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    resolver.released.set()
    assert await staying == ["127.0.0.1"]
    assert resolver.asked == ["hooks.test"]
    assert await lookup("hooks.test") == ["127.0.0.1"]
    assert len(resolver.asked) == 2


async def test_a_resolver_that_hangs_delays_nothing_else(resolver):
    """Its thread is a daemon: neither a deadline nor the end of the program waits for it."""
    lookup = ThreadLookup()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await lookup("hooks.test")
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "lookup")


async def test_many_hanging_names_are_refused_rather_than_piled_up(resolver, monkeypatch):
    monkeypatch.setattr("bridge.delivery.address_guard.THREADS_MAX", 2)
    lookup = ThreadLookup()
    waiting = [asyncio.create_task(lookup(name)) for name in ("a.test", "b.test")]
    await asyncio.sleep(0)
    with pytest.raises(socket.gaierror):
        await lookup("c.test")
    resolver.released.set()
    assert await asyncio.gather(*waiting) == [["127.0.0.1"]] * 2


@pytest.mark.parametrize("name", ["a" * 64 + ".test", "a..test"])
async def test_names_that_no_resolver_takes_are_lookup_errors(name):
    with pytest.raises(socket.gaierror):
        await ThreadLookup()(name)


# --- guard explain ---


async def test_explain_judges_each_address_of_a_name():
    names = Names(hooks_test=[["8.8.8.8", "10.0.0.5"]])
    explained = await explain("https://hooks.test/x", STRICT, lookup=names)
    assert not explained.allowed
    assert explained.problem is None
    assert [(address, verdict.allowed, verdict.rule) for address, verdict in explained.verdicts] == [
        ("8.8.8.8", True, "public"),
        ("10.0.0.5", False, "private"),
    ]
    assert explained.verdicts[1][1].allow_line == '[delivery] allow = ["10.0.0.5/32:443"]'


async def test_explain_says_yes_where_a_delivery_would_be_dialled():
    assert (await explain("https://hooks.test/", STRICT, lookup=Names(hooks_test=[["8.8.8.8"]]))).allowed
    assert (await explain("http://localhost:9000/", LOCAL, lookup=Names())).allowed
    assert (await explain("http://127.0.0.1:9000/", AddressPolicy(Trust.CONFIG))).allowed


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("ftp://x/", "http://"),
        ("http://127.1/", "unusual spelling"),
        ("http://10.0.0.1/", "rule: private"),
        ("https://metadata.google.internal/", "metadata"),
        ("https://gone.test/", "cannot be looked up"),
        ("http://gone.test/", "rule: https"),
        ("https://metadata.goog/", "rule: metadata"),
        ("https://empty.test/", "cannot be looked up"),
    ],
)
async def test_explain_says_what_is_wrong_with_a_url(url, part):
    async def lookup(name):
        if name == "empty.test":
            return []
        if name in {"gone.test", "metadata.goog"}:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ["169.254.169.254"]

    explained = await explain(url, STRICT, lookup=lookup)
    assert not explained.allowed
    assert part in explained.problem
