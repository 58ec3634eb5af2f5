"""Where a request goes."""

from __future__ import annotations

from itertools import product

import pytest

from syncer.proxy.request import RequestInfo, read
from syncer.proxy.routes import Route, is_stream, route_of

POD = "/api/v1/namespaces/a/pods/b"
SERVICE = "/api/v1/namespaces/a/services/b"
SERVICES = "/api/v1/namespaces/a/services"
NODE = "/api/v1/nodes/n"


@pytest.mark.parametrize(
    ("method", "target", "route"),
    [
        pytest.param("GET", "/", Route.PASS, id="the root"),
        pytest.param("GET", "/version", Route.PASS, id="the version"),
        pytest.param("GET", POD, Route.PASS, id="a pod"),
        pytest.param("GET", f"{POD}/status", Route.PASS, id="a pod's status"),
        pytest.param("POST", f"{POD}/binding", Route.PASS, id="a binding"),
        pytest.param("PATCH", f"{POD}/ephemeralcontainers", Route.PASS, id="a debug container"),
        pytest.param("GET", "/api/v1/watch/namespaces/a/pods", Route.PASS, id="an old watch"),
        pytest.param("GET", "/apis/apps/v1/namespaces/a/deployments/b", Route.PASS, id="a group"),
        pytest.param("GET", "/healthz", Route.HEALTH, id="health"),
        pytest.param("GET", "/livez", Route.HEALTH, id="life"),
        pytest.param("POST", "/readyz", Route.HEALTH, id="readiness, any method"),
        pytest.param("GET", "/healthz?verbose", Route.PASS, id="health in detail"),
        pytest.param("GET", "/healthz/", Route.PASS, id="health, one slash more"),
        pytest.param("GET", "/healthz/etcd", Route.PASS, id="a part's health"),
        pytest.param("GET", f"{POD}/log", Route.POD_LOG, id="a log"),
        pytest.param("GET", f"{POD}/log?follow=true", Route.POD_LOG, id="a log that goes on"),
        pytest.param("POST", f"{POD}/log", Route.POD_LOG, id="a log, any method"),
        pytest.param("GET", f"{POD}/log/", Route.POD_LOG, id="a log, one slash more"),
        pytest.param("GET", "/api/v1/namespaces/a/pods/b/l%6fg", Route.POD_LOG, id="encoded"),
        pytest.param("POST", f"{POD}/exec", Route.POD_STREAM, id="exec"),
        pytest.param("GET", f"{POD}/attach", Route.POD_STREAM, id="attach"),
        pytest.param("GET", f"{POD}/portforward", Route.POD_STREAM, id="port-forward"),
        pytest.param("GET", f"{POD}/proxy", Route.POD_PROXY, id="pod proxy"),
        pytest.param("DELETE", f"{POD}/proxy/a/b", Route.POD_PROXY, id="pod proxy and a path"),
        pytest.param("GET", f"{SERVICE}/proxy/a", Route.SERVICE_PROXY, id="service proxy"),
        pytest.param("GET", f"{NODE}/proxy/metrics", Route.NODE_PROXY, id="node proxy"),
        pytest.param("GET", f"{NODE}:10250/proxy/", Route.NODE_PROXY, id="node proxy and a port"),
        pytest.param("POST", SERVICES, Route.SERVICE_CREATE, id="a new service"),
        pytest.param("POST", f"{SERVICES}?dryRun=All", Route.SERVICE_CREATE, id="a dry run"),
        pytest.param("PATCH", SERVICE, Route.SERVICE_CREATE, id="apply"),
        pytest.param("PUT", SERVICE, Route.SERVICE_CREATE, id="a replacement"),
        pytest.param("DELETE", SERVICE, Route.PASS, id="a service's end"),
        pytest.param("PATCH", f"{SERVICE}/status", Route.PASS, id="a status"),
        pytest.param("GET", SERVICES, Route.PASS, id="services"),
        pytest.param("POST", "/api/v1/services", Route.PASS, id="a service without a namespace"),
        pytest.param(
            "POST", "/apis/serving.knative.dev/v1/namespaces/a/services", Route.PASS, id="another's"
        ),
        pytest.param("POST", "/exec/a/b/c?input=1", Route.KUBELET, id="a kubelet's exec"),
        pytest.param("GET", "/attach/a/b/c", Route.KUBELET, id="a kubelet's attach"),
        pytest.param("POST", "/portForward/a/b", Route.KUBELET, id="a kubelet's port-forward"),
        pytest.param("POST", "/executes", Route.PASS, id="no kubelet's"),
    ],
)
def test_where_a_request_goes(method: str, target: str, route: Route) -> None:
    """Whatever would make an API server dial an address is served here, the rest passed on."""
    assert route_of(read(method, target), metrics=False) is route


@pytest.mark.parametrize(
    ("target", "metrics"),
    [
        pytest.param("/apis/metrics.k8s.io", True, id="the group"),
        pytest.param("/apis/metrics.k8s.io/", True, id="one slash more"),
        pytest.param("/apis/metrics.k8s.io/v1beta1/nodes", True, id="nodes"),
        pytest.param("/apis/metrics%2Ek8s.io/v1beta1/nodes", True, id="encoded"),
        pytest.param("/apis/metrics.k8s.io.example.com/v1/a", False, id="another group"),
        pytest.param("/apis/custom.metrics.k8s.io/v1beta1", False, id="custom metrics"),
        pytest.param("/apis/custom/v1/metrics.k8s.io", False, id="an object"),
    ],
)
def test_metrics_are_served_by_flag(target: str, metrics: bool) -> None:
    """--proxy-metrics-server, and the one group only."""
    assert (route_of(read("GET", target), metrics=True) is Route.METRICS) == metrics
    assert route_of(read("GET", target), metrics=False) is Route.PASS


def readings() -> list[RequestInfo]:
    """Give requests for all that could be taken for a subresource of pods, services and nodes."""
    prefixes = ("/api/v1", "/api/v1/watch", "/api/v1/proxy", "/apis/a.b/v1", "/api/v2")
    places = ("", "/namespaces/a")
    things = ("pods", "services", "nodes", "Pods", "replicationcontrollers")
    ends = ("log", "exec", "attach", "portforward", "proxy", "proxy/a", "Log", "logs")
    return [
        read(method, f"{prefix}{place}/{thing}/b/{end}")
        for method, prefix, place, thing, end in product(
            ("GET", "POST"), prefixes, places, things, ends
        )
    ]


def test_only_an_api_servers_own_paths_are_served() -> None:
    """No other spelling leads to the host: rights of one place would be rights of another."""
    served = {info.path for info in readings() if route_of(info, metrics=True) is not Route.PASS}
    assert served == {
        *(f"{POD}/{end}" for end in ("log", "exec", "attach", "portforward", "proxy", "proxy/a")),
        *(f"{SERVICE}/{end}" for end in ("proxy", "proxy/a")),
        *(f"/api/v1/nodes/b/{end}" for end in ("proxy", "proxy/a")),
    }


@pytest.mark.parametrize(
    ("method", "target", "stream"),
    [
        pytest.param("GET", "/", False, id="the root"),
        pytest.param("GET", "/api/v1/pods", False, id="a list"),
        pytest.param("GET", POD, False, id="a pod"),
        pytest.param("GET", "/exec", False, id="no resource"),
        pytest.param("GET", "/api/v1/pods?watch=1", True, id="a watch"),
        pytest.param("GET", "/api/v1/watch/pods", True, id="an old watch"),
        pytest.param("GET", "/apis/a.b/v1/c?watch", True, id="a watch of a group"),
        pytest.param("GET", f"{POD}/log", True, id="a log"),
        pytest.param("POST", f"{POD}/exec", True, id="exec"),
        pytest.param("GET", f"{POD}/attach", True, id="attach"),
        pytest.param("GET", f"{POD}/portforward", True, id="port-forward"),
        pytest.param("GET", f"{SERVICE}/proxy/a", True, id="a proxy"),
        pytest.param("GET", "/debug/pprof/profile?seconds=90", True, id="a profile"),
    ],
)
def test_what_may_last(method: str, target: str, stream: bool) -> None:
    """What an API server lets last, too."""
    assert is_stream(read(method, target)) == stream
