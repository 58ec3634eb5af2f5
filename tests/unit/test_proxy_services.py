"""What the endpoint makes of requests to create Services, and of what the host says of them."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.errors import ApiError
from syncer.naming import Names
from syncer.objects import Key, Object
from syncer.proxy.request import read
from syncer.proxy.services import (
    Draft,
    draft_of,
    is_refusal,
    may_create,
    was_refused,
)

NAMES = Names("vc", "host-ns")
KEY = Key("default", "web")
HOST_NAME = "web-x-default-x-vc"
COLLECTION = "/api/v1/namespaces/default/services"
JSON = "application/json"
APPLY = "application/apply-patch+yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"


def stored(*, asked: bool = False, name: str = "web", generate: str = "", **spec: Any) -> Object:
    """Return a Service as a dry run answers it."""
    fields = {"f:spec": {"f:ports": {}, **({"f:clusterIP": {}} if asked else {})}}
    metadata: Object = {"name": name, "namespace": "default", "managedFields": [
        {"manager": "kubectl", "fieldsV1": fields}, {"manager": "odd"},
    ]}  # fmt: skip
    if generate:
        metadata["generateName"] = generate
    default = {"type": "ClusterIP", "clusterIP": "10.96.0.0", "clusterIPs": ["10.96.0.0"]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": default | spec}


def sent(*, metadata: Object | None = None, **spec: Any) -> Object:
    """Return a Service as a caller sends it."""
    given = {"name": "web"} if metadata is None else metadata
    return {"apiVersion": "v1", "kind": "Service", "metadata": given, "spec": spec}


def draft(
    body: bytes | Object, answer: Object, *, content_type: str = JSON, method: str = "POST"
) -> Draft | None:
    """Read a rehearsal."""
    target = COLLECTION if method == "POST" else f"{COLLECTION}/web"
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return draft_of(read(method, target), content_type, content, orjson.dumps(answer))


def bodies(body: Object, answer: Object, born: Object) -> list[Object]:
    """Return what is sent for a request, decoded."""
    found = draft(body, answer)
    assert found is not None
    return [orjson.loads(each) for each in found.bodies(orjson.dumps(body), born)]


# -- which requests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "content_type", "expected"),
    [
        pytest.param("POST", f"{COLLECTION}?dryRun=All", JSON, False, id="dry run"),
        pytest.param("POST", f"{COLLECTION}?dryRun=", JSON, False, id="dry run, wrongly"),
        pytest.param("POST", f"{COLLECTION}?dry%52un=All", JSON, False, id="dry run, encoded"),
        pytest.param("PATCH", f"{COLLECTION}/web", "application/merge-patch+json", False,
                     id="merge patch"),
        pytest.param("PATCH", f"{COLLECTION}/web", "", False, id="patch of no type"),
        pytest.param("PATCH", COLLECTION, APPLY, False, id="patch of the collection"),
        pytest.param("PATCH", f"{COLLECTION}/web?dryRun=All&force=true", APPLY, False,
                     id="dry run of an apply"),
        pytest.param("PUT", COLLECTION, JSON, False, id="replacement of the collection"),
        pytest.param("POST", f"{COLLECTION}?fieldManager=kubectl", JSON, True, id="create"),
        pytest.param("PUT", f"{COLLECTION}/web", JSON, True, id="replacement, perhaps of nothing"),
        pytest.param("POST", COLLECTION, PROTOBUF, True, id="create in protobuf"),
        pytest.param("POST", COLLECTION, "", True, id="create without a type"),
        pytest.param("PATCH", f"{COLLECTION}/web?fieldManager=x", APPLY, True, id="apply"),
        pytest.param("PATCH", f"{COLLECTION}/web", "Application/Apply-Patch+CBOR", True,
                     id="apply in another encoding"),
    ],
)  # fmt: skip
def test_the_host_hears_of_creations_only(
    method: str, target: str, content_type: str, expected: bool
) -> None:
    """Dry runs and changes of what is there are none of its business."""
    assert may_create(read(method, target), content_type) is expected


# -- what came of a rehearsal ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param({"kind": "Status", "metadata": {}}, id="no service"),
        pytest.param(
            {**stored(), "metadata": {"name": "web", "namespace": "other"}}, id="elsewhere"
        ),
        pytest.param([], id="no object"),
    ],
)
def test_an_odd_answer_is_no_draft(answer: Any) -> None:
    """What isn't the request's Service leaves the request to the virtual server alone."""
    assert draft(sent(), answer) is None


def test_an_apply_creates_the_service_it_names() -> None:
    """A patch whose answer has another name is none that we understand."""
    assert draft(sent(), stored(), content_type=APPLY, method="PATCH") is not None
    assert draft(sent(), stored(name="other"), content_type=APPLY, method="PATCH") is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(stored(clusterIP="None"), "None", id="headless"),
        pytest.param(stored(asked=True, clusterIP="10.96.9.9"), "10.96.9.9", id="asked for"),
        pytest.param(stored(clusterIP="10.96.9.9"), None, id="chosen by the server"),
    ],
)
def test_an_address_that_the_server_chose_is_not_asked_of_the_host(
    answer: Object, expected: str | None
) -> None:
    """A dry run's own choice is given to nobody; the field's manager tells whose it is."""
    found = draft(sent(), answer)
    assert found is not None
    assert found.virtual["spec"].get("clusterIP") == expected
    assert ("clusterIPs" in found.virtual["spec"]) is (expected is not None)


_EXTERNAL = {"type": "ExternalName", "clusterIP": "", "externalName": "a.b"}


@pytest.mark.parametrize(
    ("content_type", "method", "answer", "expected"),
    [
        pytest.param(APPLY, "PATCH", stored(), False, id="apply"),
        pytest.param(PROTOBUF, "POST", stored(), False, id="protobuf"),
        pytest.param("application/yaml", "POST", stored(), False, id="yaml"),
        pytest.param(PROTOBUF, "POST", stored(clusterIP="None", generate="w"), False,
                     id="a name that can't be put in"),
        pytest.param(JSON, "POST", stored(), True, id="json"),
        pytest.param("application/json; charset=utf-8", "POST", stored(), True, id="json, charset"),
        pytest.param("", "POST", stored(generate="w"), True, id="json by default"),
        pytest.param(APPLY, "PATCH", stored(clusterIP="None"), True, id="headless"),
        pytest.param(PROTOBUF, "POST", stored(**_EXTERNAL), True, id="external name"),
    ],
)  # fmt: skip
def test_a_copy_is_made_first_where_nothing_is_left_to_agree_on(
    content_type: str, method: str, answer: Object, expected: bool
) -> None:
    """Its address and its name can be put into the request, or there are none; else only asked."""
    found = draft(sent(), answer, content_type=content_type, method=method)
    assert found is not None
    assert found.reserve is expected


def test_what_is_no_json_after_all_is_not_written_into() -> None:
    """A body that says JSON and isn't, is the virtual server's to judge."""
    found = draft(b'{"kind": "Service"} trailing', stored())
    assert found is not None
    assert found.document is None
    assert not found.reserve
    assert list(found.bodies(b"as it came", {"clusterIP": "10.96.1.2"})) == [b"as it came"]


# -- what is sent ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "born"),
    [
        pytest.param(sent(), {}, id="nothing known"),
        pytest.param(sent(clusterIP="None"), {"clusterIP": "None"}, id="headless"),
        pytest.param(sent(), {"clusterIP": "None"}, id="no address"),
        pytest.param(sent(clusterIP="10.96.9.9"), {"clusterIP": "10.96.1.2"}, id="asked for"),
        pytest.param(sent(clusterIPs=["10.96.9.9"]), {"clusterIP": "10.96.1.2"}, id="asked, list"),
        pytest.param(sent(ports=[{"port": 1, "nodePort": 30001}]),
                     {"ports": [{"port": 1, "nodePort": 30002}]}, id="asked for a node port"),
        pytest.param(sent(ports=[{"port": 1}]), {"ports": [{"port": 1}]}, id="no node port"),
        pytest.param(sent(ports=[{"port": 1}]),
                     {"ports": [{"nodePort": 30001}, {"nodePort": 30002}]}, id="other ports"),
    ],
)  # fmt: skip
def test_what_the_caller_chose_is_sent_as_it_came(body: Object, born: Object) -> None:
    """Nothing the caller said is written over, and nothing is added for its own sake."""
    found = draft(body, stored())
    assert found is not None
    raw = orjson.dumps(body, option=orjson.OPT_INDENT_2)
    assert list(found.bodies(raw, born)) == [raw]


def test_a_service_is_born_with_its_copys_address_and_node_ports() -> None:
    """And without them, when the virtual cluster can't have them."""
    body = sent(type="NodePort", ports=[{"port": 1}, {"port": 2, "nodePort": 30009}], x=1)
    born = {"clusterIP": "10.96.1.2", "ports": [{"nodePort": 30001}, {"nodePort": 30002}]}
    first, second = bodies(body, stored(), born)
    ports = [{"port": 1, "nodePort": 30001}, {"port": 2, "nodePort": 30009}]
    assert first == sent(type="NodePort", ports=ports, x=1, clusterIP="10.96.1.2")
    assert second == body


def test_a_generated_name_is_the_one_of_the_rehearsal() -> None:
    """The copy already has it; the address may go, the name stays."""
    body = sent(metadata={"generateName": "w-", "labels": {"a": "b"}})
    answer = stored(name="w-abcde", generate="w-")
    first, second = bodies(body, answer, {"clusterIP": "10.96.1.2"})
    assert first["metadata"] == second["metadata"] == {**body["metadata"], "name": "w-abcde"}
    assert (first["spec"], second["spec"]) == ({"clusterIP": "10.96.1.2"}, {})


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1, max_size=5), _json), _json)
def test_all_else_of_a_request_stays(spec: Object, extra: Any) -> None:
    """Whatever the caller sent is there, in every body, as it was."""
    body = {**sent(**spec), "extra": extra}
    for found in bodies(body, stored(), {"clusterIP": "10.96.1.2"}):
        assert found["metadata"] == body["metadata"]
        assert found["extra"] == extra
        assert {key: found["spec"][key] for key in spec} == spec


@pytest.mark.parametrize("status", [201, 200, 302, 409, 500, 502, 503, 504, 599])
def test_a_copy_stays_where_its_service_may_be(status: int) -> None:
    """A server that failed may have written before it did."""
    assert not was_refused(status)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429, 499])
def test_a_copy_goes_where_its_service_was_refused(status: int) -> None:
    """The server judged, and wrote nothing."""
    assert was_refused(status)


# -- what the host says ---------------------------------------------------------------------------


def error(status: int, message: str = "no", reason: str = "Forbidden", **details: Any) -> ApiError:
    """Return an answer of the host's."""
    return ApiError(status, reason, message, details=details)


_RIGHTS = (
    'services is forbidden: User "system:serviceaccount:host-ns:vc" cannot create resource '
    '"services" in API group "" in the namespace "host-ns"'
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(error(301), False, id="a redirect"),
        pytest.param(error(401), False, id="our credentials"),
        pytest.param(error(403, _RIGHTS), False, id="our rights"),
        pytest.param(error(404), False, id="no host namespace"),
        pytest.param(error(403, causes=[{"reason": "NamespaceTerminating"}]), False,
                     id="a host namespace that goes away"),
        pytest.param(error(409, reason="Conflict"), False, id="a quota somebody else changed"),
        pytest.param(error(429), False, id="too many requests"),
        pytest.param(error(500), False, id="a webhook that can't be reached"),
        pytest.param(error(503), False, id="overload"),
        pytest.param(error(400, 'admission webhook "w" does not support dry run'), False,
                     id="a webhook that was not asked"),
        pytest.param(error(400, 'admission webhook "w" denied the request'), True, id="webhook"),
        pytest.param(error(403, f'services "{HOST_NAME}" is forbidden: exceeded quota'), True,
                     id="quota"),
        pytest.param(error(422, reason="Invalid"), True, id="policy"),
        pytest.param(error(413), True, id="size"),
    ],
)  # fmt: skip
def test_only_a_judgement_of_the_service_refuses_it(answer: ApiError, expected: bool) -> None:
    """Trouble with the host, or of the syncer with it, never does."""
    assert is_refusal(answer) is expected
