"""The address tables, case by case, and the property that no spelling changes a verdict."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.domain.addresses.policy import AddressPolicy, AllowRule, Trust, judge
from bridge.domain.addresses.tables import KINDS, METADATA, Kind
from bridge.domain.endpoint import EndpointSource

API = AddressPolicy(Trust.API)
CONFIG = AddressPolicy(Trust.CONFIG)

# fmt: off
REFUSED = [
    "127.0.0.1", "127.1.2.3", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.0.1", "169.254.169.254", "169.254.170.2", "169.254.170.23", "100.64.0.1", "100.100.100.200", "100.127.255.255",
    "192.0.0.1", "192.0.0.8", "192.0.0.9", "192.0.0.10", "192.0.0.170", "192.0.0.192", "192.0.2.1", "198.51.100.1", "203.0.113.1",
    "198.18.0.1", "198.19.255.255", "192.88.99.1", "192.31.196.1", "192.52.193.1", "192.175.48.1", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.254", "255.255.255.255", "168.63.129.16",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:169.254.169.254", "::ffff:0.0.0.0", "::127.0.0.1", "::8.8.8.8", "::2",
    "::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8", "::5efe:127.0.0.1", "fe80::5efe:10.0.0.1", "2606:4700::5efe:127.0.0.1",
    "2606:4700::200:5efe:10.0.0.1", "2606:4700::5efe:169.254.169.254",
    "64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::10.0.0.1", "64:ff9b::255.255.255.255", "64:ff9b:1::1",
    "64:ff9b:1::8.8.8.8", "64:ff9b::1:0:0",
    "2002:7f00:1::1", "2002:a9fe:a9fe::1", "2002:808:808::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:10::1", "2001:20::1",
    "2001:1::1", "2001:2::1", "2001:db8::1", "3fff::1", "3fff:fff::1", "100::1", "100:0:0:1::1", "fe80::1", "febf::1", "fec0::1", "feff::1",
    "fc00::1", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd7a:115c:a1e0::1", "fdff::1", "ff02::1", "ff0e::1", "5f00::1", "4000::1", "1fff::1",
    "8000::1", "2620:4f:8000::1", "200::1",
]
# fmt: on

# fmt: off
ALLOWED = [
    "8.8.8.8", "1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.1", "126.255.255.255", "128.0.0.1", "172.15.255.255", "172.32.0.1",
    "169.253.255.255", "169.255.0.1", "192.0.1.1", "192.0.3.1", "192.88.98.1", "192.167.255.255", "192.169.0.1", "198.17.255.255", "198.20.0.1",
    "223.255.255.255", "168.63.129.15", "168.63.129.17",
    "2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450::1", "2001:200::1", "2001:db7::1", "2001:db9::1", "2003::1", "3ffe::1",
    "64:ff9b::8.8.8.8", "::ffff:8.8.8.8", "2606:4700::5efe:8.8.8.8",
]
# fmt: on


@pytest.mark.parametrize("address", REFUSED)
def test_api_made_endpoints_reach_nothing_but_public_addresses(address):
    assert not judge(address, 443, API).allowed


@pytest.mark.parametrize("address", ALLOWED)
def test_public_addresses_are_allowed(address):
    assert judge(address, 443, API).allowed
    assert judge(address, 443, CONFIG).allowed


@pytest.mark.parametrize("address", ["fe80::1%eth0", "::1%lo", "2606:4700::1%25eth0", "::ffff:8.8.8.8%1"])
def test_zone_ids_are_never_allowed(address):
    everything = AddressPolicy(Trust.CONFIG, allow=(AllowRule.parse("::/0"), AllowRule.parse("0.0.0.0/0")))
    assert judge(address, 443, everything).rule in {"zone id", "malformed"}


@pytest.mark.parametrize(
    "spelling",
    [
        "127.1", "127.0.1", "2130706433", "0", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "00000000",
        "127.0.0.01", "①②⑦.0.0.1", "127.0.0.1.", " 127.0.0.1", "127.0.0.1/32", "", "localhost", "[::1]", "8.8.8.8 ",
    ],
)  # fmt: skip
def test_what_is_not_an_address_in_its_usual_form_is_refused(spelling):
    assert judge(spelling, 443, CONFIG).rule == "malformed"


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "192.168.0.9", "100.64.0.1", "::1", "fd12::1"])
def test_the_operators_own_endpoints_may_be_private(address):
    assert judge(address, 9000, CONFIG, is_encrypted=False).allowed
    assert judge(address, 9000, CONFIG).rule == "config file"
    assert not judge(address, 9000, API).allowed


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "2002:a00:1::1", "64:ff9b:1::1", "4000::1"]
)
def test_what_is_no_place_to_deliver_to_cannot_be_allowed_at_all(address):
    rules = (AllowRule.parse(address), AllowRule.parse("0.0.0.0/0"), AllowRule.parse("::/0"))
    verdict = judge(address, 443, AddressPolicy(Trust.CONFIG, allow=rules))
    assert not verdict.allowed
    assert verdict.allow_line is None


@pytest.mark.parametrize("trust", Trust)
@pytest.mark.parametrize("address", sorted(METADATA, key=str))
def test_cloud_metadata_is_refused_unless_it_is_listed_exactly(trust, address):
    wide = tuple(map(AllowRule.parse, ["0.0.0.0/0", "::/0", "169.254.0.0/16", "fd00::/8"]))
    assert judge(address, 80, AddressPolicy(trust, allow=wide), is_encrypted=False).rule == "metadata"
    exact = (AllowRule.parse(f"{address}/{address.max_prefixlen}"),)
    assert judge(address, 80, AddressPolicy(trust, allow=exact), is_encrypted=False).allowed


def test_a_rule_with_a_port_covers_that_port_alone():
    policy = AddressPolicy(Trust.API, allow=(AllowRule.parse("10.0.0.5/32:8080"),))
    assert judge("10.0.0.5", 8080, policy, is_encrypted=False).allowed
    assert judge("::ffff:10.0.0.5", 8080, policy, is_encrypted=False).allowed
    assert not judge("10.0.0.5", 8081, policy).allowed
    assert not judge("10.0.0.6", 8080, policy).allowed


def test_a_refusal_names_the_address_the_rule_and_the_line_that_would_allow_it():
    verdict = judge("10.0.0.5", 8080, API)
    assert (verdict.rule, verdict.allow_line) == ("private", '[delivery] allow = ["10.0.0.5/32:8080"]')
    assert "10.0.0.5" in str(verdict)
    assert "10.0.0.0/8" in str(verdict)
    assert judge("fd00::7", 8080, API).allow_line == '[delivery] allow = ["[fd00::7/128]:8080"]'


@pytest.mark.parametrize("address", ["10.0.0.5", "fd00::7", "::1", "64:ff9b::10.0.0.5", "169.254.169.254", "192.0.2.1"])
def test_the_line_that_a_refusal_names_really_allows_it(address):
    line = judge(address, 8080, API).allow_line
    rule = AllowRule.parse(line.split('"')[1])
    assert judge(address, 8080, AddressPolicy(Trust.API, allow=(rule,)), is_encrypted=False).allowed


def test_public_addresses_need_https_unless_http_is_allowed():
    assert judge("8.8.8.8", 80, CONFIG, is_encrypted=False).rule == "https"
    assert judge("8.8.8.8", 80, AddressPolicy(Trust.API, allow_http=True), is_encrypted=False).allowed
    assert not judge("10.0.0.1", 80, AddressPolicy(Trust.API, allow_http=True), is_encrypted=False).allowed


def test_ports_of_other_protocols_are_refused_to_the_api_unless_listed():
    assert judge("8.8.8.8", 25, API).rule == "odd port"
    assert judge("8.8.8.8", 25, CONFIG).allowed
    assert judge("8.8.8.8", 25, AddressPolicy(Trust.API, allow=(AllowRule.parse("8.8.8.8:25"),))).allowed


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_ports_that_do_not_exist_are_refused(port):
    assert judge("8.8.8.8", port, API).rule == "port"


@pytest.mark.parametrize("trust", Trust)
def test_our_own_listen_address_is_refused_whatever_is_allowed(trust):
    """A delivery to ourselves could go round for ever."""
    allow = (AllowRule.parse("127.0.0.0/8"), AllowRule.parse("::1"))
    policy = AddressPolicy(trust, allow=allow, own=((ip_address("127.0.0.1"), 8484),))
    assert judge("127.0.0.1", 8484, policy, is_encrypted=False).rule == "own address"
    assert judge("::ffff:127.0.0.1", 8484, policy, is_encrypted=False).rule == "own address"
    assert judge("127.0.0.1", 8485, policy, is_encrypted=False).allowed
    everywhere = AddressPolicy(trust, allow=allow, own=((ip_address("0.0.0.0"), 8484),))
    assert judge("127.8.8.8", 8484, everywhere, is_encrypted=False).rule == "own address"
    assert judge("::1", 8484, everywhere, is_encrypted=False).rule == "own address"


@pytest.mark.parametrize(
    ("text", "network", "port"),
    [
        ("127.0.0.0/8", "127.0.0.0/8", None),
        ("10.0.0.5/32:8080", "10.0.0.5/32", 8080),
        ("10.0.0.5:8080", "10.0.0.5/32", 8080),
        ("10.0.0.5", "10.0.0.5/32", None),
        ("fd00::/8", "fd00::/8", None),
        ("[fd00::1/128]:8080", "fd00::1/128", 8080),
        ("[fd00::1]", "fd00::1/128", None),
        ("::1", "::1/128", None),
        ("::ffff:10.0.0.5", "10.0.0.5/32", None),
        ("[::ffff:10.0.0.0/104]:80", "10.0.0.0/8", 80),
    ],
)
def test_allow_rules_are_read(text, network, port):
    rule = AllowRule.parse(text)
    assert (str(rule.network), rule.port) == (network, port)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("10.0.0.5/8", "10.0.0.0/8"),
        ("fd00::1/8", "fd00::/8"),
        ("10.0.0.0/33", "not an address"),
        ("10.0.0.0/255.0.0.0", "not an address"),
        ("10.0.0.5:0", "port"),
        ("10.0.0.5:70000", "port"),
        ("10.0.0.5:" + "9" * 5000, "port"),
        ("10.0.0.5:", "not an address"),
        ("example.com", "not an address"),
        ("127.1", "not an address"),
        ("fe80::1%eth0", "not an address"),
        ("", "not an address"),
        ("10.0.0.5:８０", "not an address"),
    ],
)
def test_a_wrong_allow_rule_says_what_to_write(text, advice):
    with pytest.raises(ValueError, match=advice):
        AllowRule.parse(text)


def test_trust_follows_from_who_made_the_endpoint():
    assert [Trust.of(source) for source in EndpointSource] == [Trust.CONFIG, Trust.API, Trust.API]


# --- properties ---

_v4 = st.integers(0, 2**32 - 1).map(IPv4Address)
_v6 = st.integers(0, 2**128 - 1).map(IPv6Address)
_ports = st.sampled_from([80, 443, 8080])
_forbidden_v4 = st.sampled_from(
    [line[0] for line in KINDS if isinstance(line[0], IPv4Network) and line[1] is not Kind.PUBLIC]
).flatmap(lambda net: st.integers(int(net[0]), int(net[-1])).map(IPv4Address))


def _v6_spellings(address: IPv6Address) -> list[str]:
    # `exploded` would not do: newer Pythons write mapped addresses with dots there
    groups = [f"{int(address) >> shift & 0xFFFF:04x}" for shift in range(112, -1, -16)]
    inner = IPv4Address(int(address) & 0xFFFFFFFF)
    dotted = ":".join(groups[:6]) + f":{inner}"
    short = ":".join(group.lstrip("0") or "0" for group in groups)
    return [str(address), ":".join(groups), str(address).upper(), short, dotted]


@settings(deadline=None)
@given(_v6, _ports)
def test_no_spelling_of_an_ipv6_address_changes_its_verdict(address, port):
    verdicts = {judge(spelling, port, API) for spelling in _v6_spellings(address)} | {judge(address, port, API)}
    assert len(verdicts) == 1


@settings(deadline=None)
@given(_v4, _ports, st.sampled_from(Trust), st.booleans())
def test_the_mapped_form_of_an_ipv4_address_has_its_verdict(address, port, trust, is_encrypted):
    policy = AddressPolicy(trust, allow=(AllowRule.parse("10.0.0.0/8"), AllowRule.parse("::ffff:192.168.0.0/112")))
    plain = judge(address, port, policy, is_encrypted=is_encrypted)
    for spelling in _v6_spellings(IPv6Address(0xFFFF << 32 | int(address))):
        mapped = judge(spelling, port, policy, is_encrypted=is_encrypted)
        assert (mapped.allowed, mapped.rule, mapped.allow_line) == (plain.allowed, plain.rule, plain.allow_line)


@settings(deadline=None)
@given(_forbidden_v4, st.integers(0, 2**32 - 1), _ports)
def test_a_forbidden_ipv4_address_is_refused_in_every_transition_form(address, noise, port):
    v4 = int(address)
    forms = [
        v4,  # IPv4-compatible
        0xFFFF << 32 | v4,  # mapped
        0xFFFF << 48 | v4,  # translated (SIIT)
        0x64FF9B << 96 | v4,  # NAT64
        0x64FF9B0001 << 80 | v4,  # local NAT64
        0x2002 << 112 | v4 << 80 | noise,  # 6to4
        0x2001 << 112 | v4 << 64 | noise,  # Teredo, server
        0x2001 << 112 | noise << 64 | v4 ^ 0xFFFFFFFF,  # Teredo, client
        0x26064700 << 96 | 0x5EFE << 32 | v4,  # ISATAP
        0x26064700 << 96 | 0x02005EFE << 32 | v4,
        0xFE80 << 112 | 0x5EFE << 32 | v4,
    ]
    for form in forms:
        assert not judge(IPv6Address(form), port, API).allowed, IPv6Address(form)


@settings(deadline=None)
@given(_v6)
def test_no_ipv6_address_outside_2000_3_is_public_but_nat64_and_mapped(address):
    if judge(address, 443, API).allowed:
        assert int(address) >> 125 == 1 or int(address) >> 32 in {0xFFFF, 0x64FF9B << 64}
