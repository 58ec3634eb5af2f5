"""Service variables: those that a kubelet of the virtual cluster would set."""

from __future__ import annotations

import pytest

from mappers.pods.env import service_env
from syncer.objects import Object, Side
from tests.unit.mappers.pods.support import pod, ref, service, wanted

KUBERNETES = {
    "KUBERNETES_PORT": "tcp://10.96.0.1:443",
    "KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443",
    "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
    "KUBERNETES_PORT_443_TCP_PORT": "443",
    "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "KUBERNETES_SERVICE_PORT": "443",
    "KUBERNETES_SERVICE_PORT_HTTPS": "443",
}


def _variables(container: Object) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"]}


@pytest.mark.parametrize(
    "ignored",
    [service("a", "None", {"port": 1}), service("a", "", {"port": 1}), service("a", "1.1.1.1")],
    ids=["headless", "external", "no port"],
)
def test_service_without_address_has_no_variables(ignored: Object) -> None:
    """Headless, external and portless Services have no variables."""
    assert service_env(None, [ignored]) == []


def test_variables_of_a_service() -> None:
    """All ports get the Docker style variables; the first is the default; IPv6 is bracketed."""
    ports = [{"port": 53, "protocol": "UDP"}, {"name": "web-ui", "port": 80}]
    made = service_env(None, [service("my-db", "fd00::1", *ports)])
    assert {variable["name"]: variable["value"] for variable in made} == {
        "MY_DB_SERVICE_HOST": "fd00::1",
        "MY_DB_SERVICE_PORT": "53",
        "MY_DB_SERVICE_PORT_WEB_UI": "80",
        "MY_DB_PORT": "udp://[fd00::1]:53",
        "MY_DB_PORT_53_UDP": "udp://[fd00::1]:53",
        "MY_DB_PORT_53_UDP_PROTO": "udp",
        "MY_DB_PORT_53_UDP_PORT": "53",
        "MY_DB_PORT_53_UDP_ADDR": "fd00::1",
        "MY_DB_PORT_80_TCP": "tcp://[fd00::1]:80",
        "MY_DB_PORT_80_TCP_PROTO": "tcp",
        "MY_DB_PORT_80_TCP_PORT": "80",
        "MY_DB_PORT_80_TCP_ADDR": "fd00::1",
    }


@pytest.mark.parametrize("links", [None, True, False])
def test_service_links(links: bool | None) -> None:
    """The API server's variables are always there, others unless links are turned off."""
    spec = {} if links is None else {"enableServiceLinks": links}
    made = wanted(pod(spec), found={"services": [service("db", "10.96.0.5", {"port": 1})]})
    variables = _variables(made["spec"]["containers"][0])
    assert variables.items() >= KUBERNETES.items()
    assert ("DB_SERVICE_HOST" in variables) is (links is not False)


def test_own_variable_wins() -> None:
    """A variable of the container stands, and the service's comes before all of its own."""
    env = [{"name": "KUBERNETES_SERVICE_HOST", "value": "mine"}, {"name": "A", "value": "1"}]
    made = wanted(pod({"containers": [{"name": "m", "env": env}]}))["spec"]["containers"][0]["env"]
    assert made[-2:] == env
    names = [variable["name"] for variable in made]
    assert len(set(names)) == len(names)
    assert names[:-2] == sorted(names[:-2])


@pytest.mark.parametrize(
    ("field", "resource"), [("configMapRef", "configmaps"), ("secretRef", "secrets")]
)
def test_imported_variable_wins(field: str, resource: str) -> None:
    """As with a kubelet, what ``envFrom`` brings stands before the service's of that name."""
    sources = [{field: {"name": "cfg"}}, {field: {"name": "gone", "optional": True}}]
    prefixed = {field: {"name": "cfg"}, "prefix": "KUBERNETES_"}
    spec = {
        "containers": [{"name": "m", "envFrom": sources}, {"name": "p", "envFrom": [prefixed]}],
        "ephemeralContainers": [{"name": "e", "envFrom": sources}],
    }
    world = {
        ref(Side.VIRTUAL, resource, "cfg", "shop"): {"data": {"KUBERNETES_PORT": "x", "PORT": "y"}}
    }
    made = wanted(pod(spec), world=world)["spec"]
    without = KUBERNETES.keys() - {"KUBERNETES_PORT"}
    assert [_variables(container).keys() for container in made["containers"]] == [without] * 2
    later = wanted(pod(spec), pod(), world=world)["spec"]
    assert _variables(later["ephemeralContainers"][0]).keys() == without


def test_every_container_gets_them() -> None:
    """Init and ephemeral containers get the variables too, the latter when it is added."""
    spec = {
        "initContainers": [{"name": "i"}],
        "ephemeralContainers": [{"name": "e", "targetContainerName": "main"}],
    }
    created, added = wanted(pod(spec)), wanted(pod(spec), pod())
    assert _variables(created["spec"]["initContainers"][0]) == KUBERNETES
    assert _variables(added["spec"]["ephemeralContainers"][0]) == KUBERNETES
    assert added["spec"]["ephemeralContainers"][0]["targetContainerName"] == "main"
