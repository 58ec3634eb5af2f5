"""The virtual cluster's range of service addresses.

Direction: none; only looked at, for services and for the addresses of endpoints.
Host name: none.
Rewritten: nothing.
Read back: nothing.
Never copied: everything; the host's range is the host's.
Source: Kubernetes API, ServiceCIDR (networking.k8s.io/v1, since 1.33); KEP-1880; KEP-3070 (the
    first part of the range is for addresses that people choose, the rest is handed out).
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

from syncer.objects import Key, Resource, Side
from syncer.types import Context, Direction, Kind, Ref

Network: TypeAlias = IPv4Network | IPv6Network
Address: TypeAlias = IPv4Address | IPv6Address

SERVICE_CIDR: Final = Ref(Side.VIRTUAL, "servicecidrs.networking.k8s.io", Key("", "kubernetes"))
"""What a kind declares that wants to call :func:`networks`."""

_BAND_STEP = 16
_BAND_MIN = 16
_BAND_MAX = 256


def networks(ctx: Context) -> tuple[Network, ...]:
    """Give the service networks, primary first; none where the server doesn't tell (before 1.33).

    Args:
        ctx: of a kind that declared :data:`SERVICE_CIDR`.
    """
    found = ctx.objects.get(SERVICE_CIDR)
    cidrs = ((found or {}).get("spec") or {}).get("cidrs") or ()
    return _parse(tuple(cidrs))


@lru_cache(maxsize=16)
def _parse(cidrs: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ip_network(cidr) for cidr in cidrs)


def parse_address(text: str) -> Address | None:
    """Read an IP address; an IPv4 address in IPv6 clothes is the IPv4 one.

    Returns:
        ``None`` for what is no address.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def contains(text: str, within: tuple[Network, ...]) -> bool:
    """Say whether an address lies in one of the networks."""
    address = parse_address(text)
    return address is not None and any(address in network for network in within)


def is_handed_out(text: str, within: tuple[Network, ...]) -> bool:
    """Say whether an address lies in the part of a network that servers hand out by themselves.

    The part before it, ``min(max(16, size / 16), 256)`` addresses, is for people who choose:
    what a tenant chose there says nothing about what is free on the host, and could be meant
    for the host's own DNS service.

    Source: KEP-3070.
    """
    address = parse_address(text)
    if address is None:
        return False
    for network in within:
        if address in network:
            offset = int(address) - int(network.network_address)
            return offset > _static_band(network) and offset < network.num_addresses - 1
    return False


def _static_band(network: Network) -> int:
    size = network.num_addresses
    if size <= _BAND_MIN:
        return 0
    return min(max(_BAND_MIN, size // _BAND_STEP), _BAND_MAX)


KIND = Kind(
    name="servicecidrs",
    resource=Resource("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", namespaced=False),
    direction=Direction.WATCHED,
    optional=False,
    required=False,
)
