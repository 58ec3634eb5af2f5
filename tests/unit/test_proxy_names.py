"""The names and addresses that the endpoint's certificate has to be good for."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.proxy.names import MAX_NAMES, certificate_names
from syncer.settings import Settings, certificate_name, load

FIXED = {
    "localhost",
    "127.0.0.1",
    "::1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "metrics-service.kube-system.svc",
    "blue",
    "blue.team-1",
    "blue.team-1.svc",
    "blue-lb",
    "blue-lb.team-1",
    "blue-lb.team-1.svc",
    "*.nodes.vcluster.com",
    "*.blue.team-1.nodes.vcluster.com",
}


def settings(**flags: Any) -> Settings:
    return load({"name": "blue", "current_namespace": "team-1", **flags}, {}).settings


def service(*addresses: str, ingress: list[dict[str, str]] | None = None) -> dict[str, Any]:
    return {
        "spec": {"clusterIP": addresses[0], "clusterIPs": list(addresses)},
        "status": {"loadBalancer": {"ingress": ingress or []}},
    }


def test_without_any_object_it_is_good_for_the_fixed_names() -> None:
    """The names a cluster has for its API server are always in, and those of the Service."""
    assert certificate_names(settings()) == FIXED


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        pytest.param({"cluster_domain": "x.y"}, {"kubernetes.default.svc.x.y"}, id="domain"),
        pytest.param({"service_name": "api"}, {"api", "api.team-1", "api-lb"}, id="service"),
        pytest.param({"bind_address": "10.1.2.3"}, {"10.1.2.3"}, id="address listened on"),
        pytest.param(
            {"tls_san": ["*.Example.com,2001:DB8:0::7", "a.b."]},
            {"*.example.com", "2001:db8::7", "a.b"},
            id="further names",
        ),
    ],
)
def test_settings_add_names(flags: dict[str, Any], names: set[str]) -> None:
    """What a setting says is in the certificate."""
    assert names <= certificate_names(settings(**flags))


def test_services_and_the_pod_add_their_addresses() -> None:
    """Cluster addresses, load balancers, the pod's address and nodes' Services are all in."""
    found = certificate_names(
        settings(),
        pod_ip="10.0.0.9",
        services=[
            service("10.96.0.5", "fd00::5"),
            service("None", ingress=[{"ip": "203.0.113.7"}, {"hostname": "LB.example.com"}]),
        ],
        node_addresses=["10.96.0.8"],
    )
    added = {"10.0.0.9", "10.96.0.5", "fd00::5", "203.0.113.7", "lb.example.com", "10.96.0.8"}
    assert found == FIXED | added


@pytest.mark.parametrize(
    "hostname", ["*.example.com", "a b", "a..b", "-", "x" * 64, "a." * 130 + "a", "ü.example", ""]
)
def test_a_load_balancer_that_has_no_usable_name_is_left_out(hostname: str) -> None:
    """What no certificate can hold, or would hold too much, costs nothing but itself."""
    ingress = [{"hostname": hostname}]
    assert certificate_names(settings(), services=[service("None", ingress=ingress)]) == FIXED


def test_nodes_are_the_first_to_be_left_out_of_too_many() -> None:
    """There is an end to a certificate's size, and everything but nodes is in it."""
    nodes = [f"10.1.{number // 256}.{number % 256}" for number in range(2000)]
    found = certificate_names(settings(), services=[service("10.96.0.5")], node_addresses=nodes)
    assert len(found) == MAX_NAMES
    assert found >= FIXED | {"10.96.0.5"}
    assert found == certificate_names(
        settings(), services=[service("10.96.0.5")], node_addresses=nodes[::-1]
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param("a.b", "a.b", id="already so"),
        pytest.param("A.B.", "a.b", id="lower case, no dot at the end"),
        pytest.param("::ffff:1.2.3.4", str(ip_address("::ffff:1.2.3.4")), id="mapped address"),
        pytest.param("0.0.0.0", "", id="no address"),  # noqa: S104
        pytest.param("::", "", id="no address of IPv6"),
        pytest.param("fe80::1%eth0", "", id="address with a zone"),
        pytest.param("a.*.b", "", id="wildcard in the middle"),
        pytest.param("a\n", "", id="line end"),
    ],
)
def test_a_name_has_one_form(text: str, name: str) -> None:
    """A name is lower case without a dot at its end; an address is in its shortest form."""
    assert certificate_name(text) == name


@given(st.text() | st.ip_addresses().map(str))
def test_a_name_is_never_changed_twice(text: str) -> None:
    """What was taken is taken again, as it is."""
    assert certificate_name(certificate_name(text)) == certificate_name(text)
