"""The map of address space that deliveries are judged by; data only, each line with its reason.

IPv4: IANA's special-purpose registry, multicast, the reserved block; everything else is public.
IPv6: only 2000::/3 is public, minus its exceptions; the rest is unusable. The first match decides.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Kind(StrEnum):
    """The kind of an address; verdicts name it as their rule. UNUSABLE can never be allowed."""

    PUBLIC = "public"
    LOOPBACK = "loopback"
    PRIVATE = "private"
    SHARED = "shared"
    LINK_LOCAL = "link-local"
    SPECIAL = "special-purpose"
    METADATA = "metadata"
    UNUSABLE = "unusable"


# Served by the host to any process on it, often with credentials.
METADATA: Final[frozenset[Address]] = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Google, Azure, OpenStack, DigitalOcean, Oracle …
        "169.254.169.253",  # AWS, names
        "169.254.170.2",  # AWS ECS, task credentials
        "169.254.170.23",  # AWS EKS, pod credentials
        "169.254.42.42",  # Scaleway
        "169.254.0.23",  # Tencent
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure host agent: looks public
        "192.0.0.192",  # Oracle
        "fd00:ec2::254",  # AWS
        "fd00:ec2::253",  # AWS, names
        "fd00:ec2::23",  # AWS EKS
        "fd20:ce::254",  # Google
        "fd00:42::42",  # Scaleway
        "fd00:c1::a9fe:a9fe",  # Oracle
    )
)

# Names of the above; refused by name too, because that message says more than the address at the dial.
METADATA_NAMES: Final = frozenset(
    {
        "instance-data",
        "instance-data.ec2.internal",
        "metadata",
        "metadata.azure.internal",
        "metadata.goog",
        "metadata.google.internal",
        "metadata.tencentyun.com",
    }
)

KINDS: Final[tuple[tuple[Network, Kind, str], ...]] = (
    (IPv4Network("0.0.0.0/8"), Kind.UNUSABLE, "this host"),
    (IPv4Network("10.0.0.0/8"), Kind.PRIVATE, "private"),
    (IPv4Network("100.64.0.0/10"), Kind.SHARED, "shared behind a carrier or overlay"),
    (IPv4Network("127.0.0.0/8"), Kind.LOOPBACK, "loopback"),
    (IPv4Network("169.254.0.0/16"), Kind.LINK_LOCAL, "link-local"),
    (IPv4Network("172.16.0.0/12"), Kind.PRIVATE, "private"),
    (IPv4Network("192.0.0.0/24"), Kind.SPECIAL, "protocol assignments"),
    (IPv4Network("192.0.2.0/24"), Kind.SPECIAL, "documentation"),
    (IPv4Network("192.31.196.0/24"), Kind.SPECIAL, "AS112 sink"),
    (IPv4Network("192.52.193.0/24"), Kind.SPECIAL, "multicast tunnelling"),
    (IPv4Network("192.88.99.0/24"), Kind.SPECIAL, "6to4 relay"),
    (IPv4Network("192.168.0.0/16"), Kind.PRIVATE, "private"),
    (IPv4Network("192.175.48.0/24"), Kind.SPECIAL, "AS112 sink"),
    (IPv4Network("198.18.0.0/15"), Kind.SPECIAL, "benchmarking"),
    (IPv4Network("198.51.100.0/24"), Kind.SPECIAL, "documentation"),
    (IPv4Network("203.0.113.0/24"), Kind.SPECIAL, "documentation"),
    (IPv4Network("224.0.0.0/4"), Kind.UNUSABLE, "multicast"),
    (IPv4Network("240.0.0.0/4"), Kind.UNUSABLE, "reserved, broadcast"),
    (IPv4Network("0.0.0.0/0"), Kind.PUBLIC, "public"),
    (IPv6Network("::1/128"), Kind.LOOPBACK, "loopback"),
    (IPv6Network("2001::/23"), Kind.UNUSABLE, "protocol assignments, Teredo"),
    (IPv6Network("2001:db8::/32"), Kind.SPECIAL, "documentation"),
    (IPv6Network("2002::/16"), Kind.UNUSABLE, "6to4"),
    (IPv6Network("2620:4f:8000::/48"), Kind.SPECIAL, "AS112 sink"),
    (IPv6Network("3fff::/20"), Kind.SPECIAL, "documentation"),
    (IPv6Network("2000::/3"), Kind.PUBLIC, "public"),
    (IPv6Network("fc00::/7"), Kind.PRIVATE, "unique local"),
    (IPv6Network("fe80::/10"), Kind.LINK_LOCAL, "link-local"),
    (IPv6Network("::/0"), Kind.UNUSABLE, "outside 2000::/3, where public IPv6 lives"),
)

# Ports that browsers refuse too (the Fetch standard, "bad port"): services there do not speak HTTP.
# fmt: off
ODD_PORTS: Final = frozenset({
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110,
    111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532,
    540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061,
    6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
})
# fmt: on
