"""The service network: what is in it, and what servers hand out of it by themselves."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mappers.servicecidrs import KIND, contains, is_handed_out, networks, parse_address
from syncer.types import Direction

SMALL = (ip_network("10.0.0.0/24"),)


def test_nothing_is_written_for_a_service_network() -> None:
    """The kind is watched only."""
    assert KIND.direction is Direction.WATCHED


def test_an_old_server_tells_no_network(world: Any) -> None:
    """Without a ServiceCIDR object nothing is known, and nothing is in it."""
    assert networks(world.ctx()) == ()
    assert not contains("10.0.0.1", ())
    assert not is_handed_out("10.0.0.100", ())


def test_both_families_are_known(world: Any) -> None:
    """The networks come in the server's order."""
    world.service_network("10.0.0.0/16", "fd00::/108")
    assert networks(world.ctx()) == (ip_network("10.0.0.0/16"), ip_network("fd00::/108"))


@pytest.mark.parametrize(
    ("cidr", "address", "handed_out"),
    [
        pytest.param("10.0.0.0/24", "10.0.0.1", False, id="kubernetes"),
        pytest.param("10.0.0.0/24", "10.0.0.10", False, id="dns"),
        pytest.param("10.0.0.0/24", "10.0.0.16", False, id="small-last-of-band"),
        pytest.param("10.0.0.0/24", "10.0.0.17", True, id="small-first-handed-out"),
        pytest.param("10.0.0.0/24", "10.0.0.254", True, id="small-last"),
        pytest.param("10.0.0.0/24", "10.0.0.255", False, id="broadcast"),
        pytest.param("10.96.0.0/20", "10.96.1.0", False, id="middle-last-of-band"),
        pytest.param("10.96.0.0/20", "10.96.1.1", True, id="middle-first-handed-out"),
        pytest.param("10.96.0.0/12", "10.96.1.0", False, id="large-last-of-band"),
        pytest.param("10.96.0.0/12", "10.96.1.1", True, id="large-first-handed-out"),
        pytest.param("10.96.0.0/28", "10.96.0.1", True, id="tiny-has-no-band"),
        pytest.param("10.96.0.0/28", "10.96.0.0", False, id="network-itself"),
        pytest.param("10.96.0.0/12", "192.168.0.1", False, id="outside"),
        pytest.param("10.96.0.0/12", "None", False, id="headless"),
        pytest.param("10.96.0.0/12", "", False, id="none-yet"),
        pytest.param("fd00::/108", "fd00::100", False, id="ipv6-last-of-band"),
        pytest.param("fd00::/108", "fd00::101", True, id="ipv6-first-handed-out"),
        pytest.param("10.96.0.0/12", "fd00::101", False, id="other-family"),
    ],
)
def test_the_band_for_chosen_addresses_is_left_out(
    cidr: str, address: str, handed_out: bool
) -> None:
    """The first min(max(16, size/16), 256) addresses are for people (KEP-3070)."""
    assert is_handed_out(address, (ip_network(cidr),)) is handed_out


@settings(deadline=None)
@given(st.integers(0, 255))
def test_what_is_handed_out_is_inside(offset: int) -> None:
    """Nothing outside the network, and nothing of the band, is ever said to be handed out."""
    address = str(ip_address("10.0.0.0") + offset)
    assert is_handed_out(address, SMALL) is (16 < offset < 255)


def test_an_ipv4_address_in_ipv6_clothes_is_the_ipv4_one() -> None:
    """The mapped form can't be used to get past a rule for IPv4."""
    assert parse_address("::ffff:127.0.0.1") == ip_address("127.0.0.1")
    assert parse_address("example.com") is None
