"""Answers of the endpoint's own: the very words of an API server."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.naming import Names
from syncer.objects import Key, Object
from syncer.proxy.refusal import RefusalError, forbidden, in_tenants_words, not_found
from syncer.proxy.request import RequestInfo, read

KEY = Key("default", "web")
NAMES = Names("vc", "host-ns")
COPY = "web-x-default-x-vc"
POD_LOG = read("GET", "/api/v1/namespaces/ns/pods/p/log")


def status(code: int, reason: str, message: str, details: Object | None = None) -> Object:
    """Give a Status as API servers write it."""
    plain = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    rest = {"details": details} if details else {}
    return {**plain, "message": message, "reason": reason, **rest, "code": code}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (400, "BadRequest"),
        (401, "Unauthorized"),
        (403, "Forbidden"),
        (404, "NotFound"),
        (405, "MethodNotAllowed"),
        (406, "NotAcceptable"),
        (409, "Conflict"),
        (413, "RequestEntityTooLarge"),
        (415, "UnsupportedMediaType"),
        (422, "Invalid"),
        (429, "TooManyRequests"),
        (500, "InternalError"),
        (503, "ServiceUnavailable"),
        (504, "Timeout"),
        (418, ""),
    ],
)
def test_a_code_has_its_reason(code: int, reason: str) -> None:
    """The reasons are those of metav1.StatusReason; a code that has none has none."""
    assert RefusalError(code, "no").status == status(code, reason, "no")


def test_a_refusal_is_a_status() -> None:
    """What a client decodes is the Status, with the details and the reason that were given."""
    refusal = RefusalError(409, "no", reason="AlreadyExists", details={"name": "a"})
    assert orjson.loads(refusal.body()) == status(409, "AlreadyExists", "no", {"name": "a"})
    assert str(refusal) == "no"


@pytest.mark.parametrize(
    ("group", "message", "details"),
    [
        pytest.param("", 'pods "p" not found', {"name": "p", "kind": "pods"}, id="core"),
        pytest.param(
            "metrics.k8s.io",
            'pods.metrics.k8s.io "p" not found',
            {"name": "p", "group": "metrics.k8s.io", "kind": "pods"},
            id="a group",
        ),
    ],
)
def test_what_is_not_there_is_said_as_servers_say_it(
    group: str, message: str, details: Object
) -> None:
    """People read the message, controllers look at reason and details."""
    assert not_found("pods", "p", group).status == status(404, "NotFound", message, details)


@pytest.mark.parametrize(
    ("info", "verb", "why", "message", "details"),
    [
        pytest.param(
            POD_LOG,
            "get",
            "",
            'pods "p" is forbidden: User "u" cannot get resource "pods/log" in API group "" in the '
            'namespace "ns"',
            {"name": "p", "kind": "pods"},
            id="an object",
        ),
        pytest.param(
            POD_LOG,
            "get",
            "RBAC: no role",
            'pods "p" is forbidden: User "u" cannot get resource "pods/log" in API group "" in the '
            'namespace "ns": RBAC: no role',
            {"name": "p", "kind": "pods"},
            id="a reason",
        ),
        pytest.param(
            read("GET", "/apis/metrics.k8s.io/v1beta1/nodes"),
            "list",
            "",
            'nodes.metrics.k8s.io is forbidden: User "u" cannot list resource "nodes" in API group '
            '"metrics.k8s.io" at the cluster scope',
            {"group": "metrics.k8s.io", "kind": "nodes"},
            id="a list of a group",
        ),
        pytest.param(
            read("GET", "/metrics"),
            "get",
            "",
            'forbidden: User "u" cannot get path "/metrics"',
            None,
            id="another path",
        ),
        pytest.param(
            read("GET", "/a%3Cb%3E%26c"),
            "get",
            "",
            'forbidden: User "u" cannot get path "/a&lt;b&gt;&amp;c"',
            None,
            id="no HTML",
        ),
    ],
)
def test_what_is_forbidden_is_said_as_servers_say_it(
    info: RequestInfo, verb: str, why: str, message: str, details: Object | None
) -> None:
    """Source: forbiddenMessage of k8s.io/apiserver, and NewForbidden of apimachinery."""
    assert forbidden("u", info, verb, why).status == status(403, "Forbidden", message, details)


# -- the host's ----------------------------------------------------------------------------------


def test_a_refusal_of_the_hosts_names_the_tenants_object() -> None:
    """Code, reason and causes stay; no host name is left in any of its fields."""
    said = status(
        422,
        "Invalid",
        f'Service "{COPY}" is invalid: policy denied {COPY} in namespace host-ns',
        {
            "name": COPY,
            "kind": "Service",
            "uid": "1-2-3",
            "causes": [{"reason": "X", "message": f"{COPY} is ugly", "field": "spec", "other": 1}],
        },
    )
    told = 'Service "web" is invalid: policy denied web in namespace default'
    cause = {"reason": "X", "message": "web is ugly", "field": "spec"}
    details = {"name": "web", "kind": "Service", "causes": [cause]}
    assert in_tenants_words(said, 422, KEY, NAMES).status == status(422, "Invalid", told, details)


_json = st.recursive(
    st.none() | st.integers() | st.just(f"{COPY} in namespace host-ns"),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["message", "reason", "details", "causes", "name"]), inner
        )
    ),
    max_leaves=10,
)


@given(_json)
def test_whatever_is_no_status_is_told_without_the_hosts_names(said: object) -> None:
    """A workload may answer as if it were the host."""
    body = in_tenants_words(said, 400, KEY, NAMES).body()
    assert COPY.encode() not in body
    assert b"host-ns" not in body
