"""Which IP addresses belong to the public internet.

``ipaddress.is_global`` does not answer this: depending on the patch level of Python 3.11 it calls 2002::/16,
64:ff9b:1::/48, ::127.0.0.1, 192.0.0.192 and multicast global. So the nets are written out here, after
IANA's registries of special-purpose addresses:
https://www.iana.org/assignments/iana-ipv4-special-registry and .../iana-ipv6-special-registry
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

# IPv4 is almost fully allocated, so the exceptions are listed.
_REFUSED_V4 = tuple(
    IPv4Network(net)
    for net in (
        "0.0.0.0/8",  # "this host": Linux connects 0.0.0.0 to loopback (RFC 1122)
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # carrier-grade NAT (RFC 6598); Alibaba's metadata service is 100.100.100.200
        "127.0.0.0/8",  # loopback (RFC 1122)
        "168.63.129.16/32",  # Azure's host agent: a public number that is answered inside Azure only
        "169.254.0.0/16",  # link-local (RFC 3927); 169.254.169.254 is the clouds' metadata service
        "172.16.0.0/12",  # private (RFC 1918)
        "192.0.0.0/24",  # IETF protocols (RFC 6890); 192.0.0.192 is Oracle's metadata service
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.88.99.0/24",  # 6to4 relays, withdrawn (RFC 7526)
        "192.168.0.0/16",  # private (RFC 1918)
        "198.18.0.0/15",  # benchmarks (RFC 2544)
        "198.51.100.0/24",  # documentation (RFC 5737)
        "203.0.113.0/24",  # documentation (RFC 5737)
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved (RFC 1112), and 255.255.255.255, broadcast (RFC 919)
    )
)

# IPv6 is the other way round: only this eighth of it is allocated for global unicast (RFC 4291, IANA). All
# else is refused without being listed: loopback, link-local, unique local (fd00:ec2::254 is AWS's metadata
# service), multicast, and IPv4-compatible (::127.0.0.1).
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")

_REFUSED_V6 = tuple(
    IPv6Network(net)
    for net in (
        "2001::/23",  # IETF protocols (RFC 2928), among them Teredo, 2001::/32, which embeds IPv4
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4, which embeds IPv4: 2002:7f00:1:: is 127.0.0.1 (withdrawn, RFC 7526)
        "3fff::/20",  # documentation (RFC 9637)
    )
)

# An IPv6-only network reaches IPv4 hosts through this prefix (DNS64, RFC 6052), so it is unwrapped. Its
# local sibling 64:ff9b:1::/48 (RFC 8215) is not global unicast, and so is refused: where in the address the
# IPv4 part lies is the operator's choice. Prefixes of an operator's own cannot be known here at all: a
# network that has one must close private IPv4 at its NAT64 gateway.
_NAT64 = IPv6Network("64:ff9b::/96")


def is_public(address: str | IPv4Address | IPv6Address) -> bool:
    """Whether ``address`` is one that a host on the public internet may have.

    IPv4 inside IPv6 is judged by the IPv4 address where it leads there in practice (IPv4-mapped, NAT64);
    the withdrawn tunnels (6to4, Teredo, IPv4-compatible) are refused whatever they carry.

    Raises:
        ValueError: ``address`` is a string that is not an IP address in standard form.
    """
    address = ip_address(address)
    if isinstance(address, IPv6Address):
        embedded = _embedded_ipv4(address)
        if embedded is None:
            return address in _GLOBAL_UNICAST_V6 and not any(address in net for net in _REFUSED_V6)
        address = embedded
    return not any(address in net for net in _REFUSED_V4)


def _embedded_ipv4(address: IPv6Address) -> IPv4Address | None:
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped
