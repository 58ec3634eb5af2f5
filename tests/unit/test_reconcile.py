"""What the reconciler reads from answers: when a second look is needed, and who is kept up."""

from __future__ import annotations

from typing import Any

import pytest

from syncer import ownership
from syncer.engine.reconcile import _lives, _says, _sort, _words
from syncer.kube.errors import ApiError
from syncer.objects import Object, Resource
from syncer.types import Direction, Kind


def pod(version: str = "2", status: str = "Running", **metadata: Any) -> Object:
    return {
        "metadata": {"name": "web", "uid": "v1", "resourceVersion": version, **metadata},
        "spec": {"nodeName": "n"},
        "status": {"phase": status},
    }


@pytest.mark.parametrize(
    ("answer", "quiet"),
    [
        pytest.param(pod(), True, id="what was written"),
        pytest.param(pod("9", generation=4, managedFields=[{}]), True, id="the server's own"),
        pytest.param(pod(status="Pending"), False, id="altered"),
        pytest.param(pod(labels={"a": "b"}), False, id="a label came meanwhile"),
        pytest.param({**pod(), "spec": {"nodeName": "n", "x": 1}}, False, id="the spec changed"),
        pytest.param(pod(finalizers=["x"]), False, id="a finalizer came meanwhile"),
        pytest.param(pod(deletionTimestamp="t"), False, id="deleted meanwhile"),
    ],
)
def test_an_answer_with_news_of_others_is_looked_at(answer: Object, quiet: bool) -> None:
    """The store is past the changes of others that an answer holds: they come not again."""
    assert _says(answer, pod("1")) == quiet


def test_a_shortened_grace_is_news() -> None:
    """A deletion may be hastened without its time changing, counted in whole seconds."""
    before = pod(deletionTimestamp="t", deletionGracePeriodSeconds=30)
    after = pod(deletionTimestamp="t", deletionGracePeriodSeconds=1)
    assert _says(before, before)
    assert not _says(after, before)


@pytest.mark.parametrize(
    ("virtual", "mark", "lives"),
    [
        pytest.param(pod(), "v1", True, id="its copy"),
        pytest.param(pod(), None, True, id="a copy of vcluster v0.7, without a UID"),
        pytest.param(pod(), "v0", False, id="the copy of its predecessor"),
        pytest.param(pod(deletionTimestamp="t"), "v1", False, id="it is leaving"),
    ],
)
def test_only_an_objects_own_copy_is_kept_up(
    virtual: Object, mark: str | None, lives: bool
) -> None:
    """No token of a pod goes to the copy of the one before, nor to one that is leaving."""
    annotations = {ownership.OBJECT_UID: mark} if mark else {}
    assert _lives(virtual, {"metadata": {"annotations": annotations}}) == lives


def refusal(status: int, reason: str, cause: str = "", kind: str = "") -> ApiError:
    details = {"causes": [{"reason": cause}] if cause else [], "kind": kind}
    return ApiError(status, reason, "because", details=details, attempt="POST /x")


@pytest.mark.parametrize(
    ("direction", "error", "sort"),
    [
        pytest.param(Direction.TO_HOST, refusal(409, "Conflict"), "conflict", id="stale"),
        pytest.param(
            Direction.TO_HOST, refusal(404, "NotFound", kind="pods"), "conflict", id="it is gone"
        ),
        pytest.param(
            Direction.TO_HOST,
            refusal(404, "NotFound", kind="namespaces"),
            "error",
            id="its namespace is gone",
        ),
        pytest.param(
            Direction.TO_HOST,
            refusal(403, "Forbidden", "NamespaceTerminating", "serviceaccounts"),
            "waiting",
            id="its namespace terminates: a token or a binding, a copy on the host",
        ),
        pytest.param(
            Direction.DERIVED,
            refusal(403, "Forbidden", "NamespaceTerminating"),
            "waiting",
            id="its namespace terminates: a derived object",
        ),
        pytest.param(
            Direction.TO_VIRTUAL,
            refusal(403, "Forbidden", "NamespaceTerminating"),
            "dropped",
            id="its namespace terminates: an event",
        ),
        pytest.param(Direction.TO_HOST, refusal(429, "TooManyRequests"), "retry", id="busy"),
        pytest.param(Direction.TO_HOST, refusal(503, "ServiceUnavailable"), "retry", id="down"),
        pytest.param(Direction.TO_HOST, refusal(401, "Unauthorized"), "retry", id="credentials"),
        pytest.param(Direction.TO_HOST, refusal(403, "Forbidden"), "error", id="quota, policy"),
    ],
)
def test_refusals_are_sorted(direction: Direction, error: ApiError, sort: str) -> None:
    """Only what the tenant can do something about is told and counted as an error."""
    resource = Resource("", "v1", "pods", "Pod")
    assert _sort(Kind(name="pods", resource=resource, direction=direction), error) == sort


def test_a_quoted_object_is_neither_told_nor_logged() -> None:
    """About a patch that it can't decode, a server quotes the whole object: its data is secret."""
    message = 'patch: Invalid value: "map[data:map[password:c2VjcmV0]]": strict decoding error'
    causes = [{"field": "patch", "reason": "FieldValueInvalid", "message": message}]
    quoting = ApiError(422, "Invalid", message, details={"causes": causes}, attempt="PATCH /x")
    assert "c2VjcmV0" not in _words(quoting)
    plain = ApiError(422, "Invalid", "spec.ports: Required value", details={"causes": []})
    assert _words(plain) == "spec.ports: Required value"
