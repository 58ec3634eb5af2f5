"""metrics.k8s.io as a tenant sees it: discovery, and what is said without asking the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import orjson
import pytest

from syncer.http1.server import Response
from syncer.kube.access import Access
from syncer.kube.client import Client
from syncer.kube.config import ConnectionConfig
from syncer.naming import Names
from syncer.proxy.call import Call, Caller
from syncer.proxy.lookup import StoreLookup
from syncer.proxy.metrics_api import MetricsApi
from syncer.proxy.refusal import RefusalError
from syncer.proxy.request import read

BASE = "/apis/metrics.k8s.io"
V1 = f"{BASE}/v1beta1"


class Everything:
    """Lets everybody do everything; remembers what was asked."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.asked: list[tuple[str, str]] = []

    async def user(self, _call: Call) -> str:
        """Say who it is."""
        return "alice"

    async def require(self, user: str, info: Any) -> None:
        """Remember it."""
        self.asked.append((user, f"{info.verb} {info.path}"))


class Nothing(Everything):
    """Lets nobody do anything."""

    async def require(self, user: str, info: Any) -> None:
        """Refuse."""
        raise RefusalError(403, "no")


@dataclass
class Asked:
    """What is looked at of a request."""

    method: str


async def told(
    path: str, method: str = "GET", accept: str = "", who: Everything | None = None
) -> Any:
    """Ask; the host would be at a port where nobody listens."""
    nowhere = ConnectionConfig(lambda _: Access("http://127.0.0.1:1"))
    host = Client(nowhere)
    lookup = StoreLookup(Names("t", "host-1"), {}, lambda: ["n1"])
    api = MetricsApi(cast("Any", who or Everything()), host, Names("t", "host-1"), lookup)
    headers = [("Accept", accept)] if accept else []
    call = Call(cast("Any", Asked(method)), read(method, path), Caller(), headers)
    try:
        response = await api(call)
    finally:
        await host.close()
    assert isinstance(response, Response)
    assert ("Content-Type", "application/json") in response.headers
    return orjson.loads(response.body)


@pytest.mark.parametrize("slash", ["", "/"])
async def test_discovery_names_the_one_version(slash: str) -> None:
    """As the group's own server does."""
    version = {"groupVersion": "metrics.k8s.io/v1beta1", "version": "v1beta1"}
    assert await told(BASE + slash) == {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": "metrics.k8s.io",
        "versions": [version],
        "preferredVersion": version,
    }


async def test_discovery_names_both_resources() -> None:
    """Nodes and pods, which are read and listed."""
    found = await told(V1)
    assert (found["kind"], found["groupVersion"]) == ("APIResourceList", "metrics.k8s.io/v1beta1")
    resources = {each["name"]: (each["namespaced"], each["verbs"]) for each in found["resources"]}
    assert resources == {"nodes": (False, ["get", "list"]), "pods": (True, ["get", "list"])}


@pytest.mark.parametrize(
    ("path", "method", "accept", "code", "message"),
    [
        pytest.param(f"{V1}/none", "GET", "", 404, "the server could not find", id="no resource"),
        pytest.param(f"{BASE}/v1", "GET", "", 404, "the server could not find", id="no version"),
        pytest.param(f"{V1}/nodes/n1/x", "GET", "", 404, "the server could not", id="too deep"),
        pytest.param(f"{V1}/pods", "POST", "", 405, "only read and listed", id="a write"),
        pytest.param(f"{V1}/pods", "DELETE", "", 405, "only read and listed", id="a deletion"),
        pytest.param(f"{V1}/pods?watch=1", "GET", "", 405, "only read and listed", id="a watch"),
        pytest.param(f"{V1}/pods", "GET", "text/html", 406, "only application/json", id="a page"),
        pytest.param(
            f"{V1}/namespaces/a/pods/b",
            "GET",
            "",
            404,
            'pods.metrics.k8s.io "b" not found',
            id="a pod that is not there",
        ),
        pytest.param(
            f"{V1}/nodes/n2",
            "GET",
            "",
            404,
            'nodes.metrics.k8s.io "n2" not found',
            id="a node of others",
        ),
        pytest.param(f"{V1}/pods?labelSelector=a%20b", "GET", "", 400, "", id="no selector"),
        pytest.param(
            f"{V1}/pods", "GET", "", 503, "the host cluster's API server can't be", id="no host"
        ),
        pytest.param(f"{V1}/nodes/n1", "GET", "", 503, "the host cluster's API", id="no host now"),
    ],
)
async def test_what_is_refused(
    path: str, method: str, accept: str, code: int, message: str
) -> None:
    """With the words of an API server; what is nobody's is not asked of the host."""
    with pytest.raises(RefusalError) as refused:
        await told(path, method, accept)
    assert refused.value.code == code
    assert message in refused.value.message
    assert "127.0.0.1" not in refused.value.message


@pytest.mark.parametrize("namespace", ["A", "a_b", "a%20b", "a),x%20in%20(b", "a" * 64, "-a"])
async def test_a_namespace_that_can_not_be_there_has_no_pods(namespace: str) -> None:
    """As any that isn't there; the host, which selects by it, would call it no label."""
    found = await told(f"{V1}/namespaces/{namespace}/pods")
    assert (found["kind"], found["items"]) == ("PodMetricsList", [])
    with pytest.raises(RefusalError) as refused:
        await told(f"{V1}/namespaces/{namespace}/pods?labelSelector=a%20b")
    assert refused.value.code == 400


@pytest.mark.parametrize("path", [BASE, V1, f"{V1}/pods", f"{V1}/nodes/n2", f"{V1}/none"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_nothing_is_told_without_the_right(path: str, method: str) -> None:
    """Not even that there is nothing."""
    with pytest.raises(RefusalError) as refused:
        await told(path, method, who=Nothing())
    assert refused.value.code == 403


async def test_the_right_is_asked_for_as_the_request_is_read() -> None:
    """The verb and the path, for whoever is acting."""
    who = Everything()
    await told(V1, who=who)
    assert who.asked == [("alice", f"get {V1}")]
