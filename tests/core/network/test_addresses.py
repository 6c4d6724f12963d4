from __future__ import annotations

from ipaddress import ip_address

import pytest

from core.network import is_public


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "93.184.215.14",
        "100.63.255.255",
        "100.128.0.0",
        "172.32.0.0",
        "192.0.1.0",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "2a00:1450:4001:80b::200e",
        "::ffff:1.1.1.1",
        "64:ff9b::101:101",  # 1.1.1.1 as an IPv6-only network reaches it
    ],
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.255.255.255",
        "100.64.0.1",
        "100.127.255.255",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
    ],
)
def test_special_ipv4_is_refused_also_inside_ipv6(address: str) -> None:
    four = int(ip_address(address))
    assert not is_public(address)
    assert not is_public(f"::ffff:{address}")
    assert not is_public(f"::{address}")
    assert not is_public(f"64:ff9b::{address}")
    assert not is_public(f"64:ff9b:1::{address}")
    assert not is_public(f"2002:{four >> 16:x}:{four & 0xFFFF:x}::")
    assert not is_public(f"2001:0:101:101::{(four ^ 0xFFFFFFFF) >> 16:x}:{(four ^ 0xFFFFFFFF) & 0xFFFF:x}")


@pytest.mark.parametrize(
    "address",
    [
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",  # IPv4-translated (RFC 2765)
        "100::1",
        "2001:2::1",
        "2001:db8::1",
        "3fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "ff0e::1",  # multicast of global scope
    ],
)
def test_special_ipv6_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["", "127.1", "0x7f000001", "example.com", "[::1]"])
def test_what_is_no_address_in_standard_form_is_an_error(address: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        is_public(address)
