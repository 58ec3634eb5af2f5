"""metrics.k8s.io: registered where the flag says so, and only our registration is touched."""

from base64 import b64decode
from typing import Any

import pytest

from mappers.metrics_api import KINDS, NAME, OURS, ROOT_CA, SERVICE
from mappers.services import KIND as SERVICES
from syncer.objects import Key, Side
from syncer.types import Ref

SERVICE_KIND, KIND = KINDS
SERVICE_REF = Ref(Side.VIRTUAL, "services", SERVICE)
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
THEIRS: dict[str, Any] = {
    "metadata": {"name": NAME.name, "uid": "u", "resourceVersion": "1"},
    "spec": {"group": "metrics.k8s.io", "version": "v1beta1", "insecureSkipTLSVerify": True},
}
OUR_OLD = {
    "metadata": {**THEIRS["metadata"], "labels": {OURS: "true", "team": "a"}},
    "spec": {**THEIRS["spec"], "caBundle": "b2xk"},
}


def service(**labels: str) -> Any:
    metadata = {"namespace": SERVICE.namespace, "name": SERVICE.name, "labels": labels}
    return {"metadata": metadata, "spec": {"type": "ExternalName", "externalName": "localhost"}}


def published(world: Any) -> None:
    world.know(SERVICE_REF, service(**{OURS: "true"}))
    world.know(ROOT_CA, {"metadata": {"name": ROOT_CA.key.name}, "data": {"ca.crt": PEM}})


@pytest.mark.parametrize("virtual", [None, THEIRS], ids=["none", "the tenant's own"])
def test_without_the_flag_nothing_is_registered(world: Any, virtual: Any) -> None:
    """Neither is one made, nor is the tenant's removed."""
    published(world)
    assert world.derived(KIND, NAME, virtual) == []


def test_without_the_flag_ours_goes(world: Any) -> None:
    """A registration left from before would send the tenant to an endpoint that serves nothing."""
    published(world)
    (action,) = world.derived(KIND, NAME, OUR_OLD)
    assert type(action).__name__ == "Delete"


def test_the_tenants_own_registration_stays(world: Any) -> None:
    """A metrics server of the tenant's own wins."""
    world.options["proxy_metrics_server"] = True
    published(world)
    assert world.derived(KIND, NAME, THEIRS) == []


def test_other_registrations_are_no_business_of_ours(world: Any) -> None:
    """Only one name is this kind's."""
    world.options["proxy_metrics_server"] = True
    published(world)
    assert world.derived(KIND, Key("", "v1.example.com"), None) == []


def test_it_leads_to_the_endpoint_and_is_checked(world: Any) -> None:
    """The Service is our own, its certificate is checked against the published CA."""
    world.options["proxy_metrics_server"] = True
    published(world)
    (action,) = world.derived(KIND, NAME, None)
    spec = action.wanted["spec"]
    assert spec["service"] == {"namespace": "kube-system", "name": SERVICE.name, "port": 8443}
    assert b64decode(spec["caBundle"]).decode() == PEM
    assert "insecureSkipTLSVerify" not in spec


def test_ours_follows_the_ca(world: Any, tools: Any) -> None:
    """A CA that was replaced is written in one change; labels of others stay."""
    world.options["proxy_metrics_server"] = True
    published(world)
    actions = world.derived(KIND, NAME, OUR_OLD)
    assert len(actions) == 1
    after = tools.applied(OUR_OLD, actions, Side.VIRTUAL)
    assert b64decode(after["spec"]["caBundle"]).decode() == PEM
    assert "insecureSkipTLSVerify" not in after["spec"]
    assert after["metadata"]["labels"] == {OURS: "true", "team": "a"}
    assert world.derived(KIND, NAME, after) == []


def test_without_a_published_ca_it_waits(world: Any) -> None:
    """Nothing is registered that could not be checked."""
    world.options["proxy_metrics_server"] = True
    world.know(SERVICE_REF, service(**{OURS: "true"}))
    (action,) = world.derived(KIND, NAME, None)
    assert type(action).__name__ == "Wait"
    assert action.blocked.on == ROOT_CA


def test_the_service_comes_first(world: Any) -> None:
    """A registration that leads nowhere would hold up discovery and deletions of namespaces."""
    world.options["proxy_metrics_server"] = True
    published(world)
    world.know(SERVICE_REF, None)
    (action,) = world.derived(KIND, NAME, None)
    assert type(action).__name__ == "Wait"
    assert action.blocked.on == SERVICE_REF
    assert world.derived(KIND, NAME, OUR_OLD) == []


def test_nothing_is_registered_at_a_service_of_the_tenants(world: Any) -> None:
    """Who has a Service of that name would be asked for metrics; one made before goes."""
    world.options["proxy_metrics_server"] = True
    published(world)
    world.know(SERVICE_REF, service())
    assert world.derived(KIND, NAME, None) == []
    (action,) = world.derived(KIND, NAME, OUR_OLD)
    assert type(action).__name__ == "Delete"


def test_the_service_leads_to_the_endpoint_and_is_not_copied(world: Any) -> None:
    """It is an alias of what API server and endpoint share; the host has no use of it."""
    world.options["proxy_metrics_server"] = True
    (action,) = world.derived(SERVICE_KIND, SERVICE, None)
    made = action.wanted
    assert made["spec"] == {"type": "ExternalName", "externalName": "localhost"}
    made["metadata"] |= {"uid": "u", "resourceVersion": "1"}
    assert type(world.wanted(SERVICES, made)).__name__ == "Skip"
    assert world.derived(SERVICE_KIND, SERVICE, made) == []


def test_a_service_of_the_tenants_by_that_name_stays(world: Any) -> None:
    """It is synced as any other, and not used."""
    world.options["proxy_metrics_server"] = True
    theirs = {
        "metadata": {"namespace": SERVICE.namespace, "name": SERVICE.name, "uid": "u"},
        "spec": {"type": "ClusterIP", "clusterIP": "10.0.0.9", "ports": [{"port": 80}]},
    }
    assert world.derived(SERVICE_KIND, SERVICE, theirs) == []
    assert type(world.wanted(SERVICES, theirs)).__name__ != "Skip"
