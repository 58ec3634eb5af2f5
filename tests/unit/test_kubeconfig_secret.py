"""What it takes to bring the host's kubeconfig secret to what it should be."""

from __future__ import annotations

import copy
from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest

from syncer.kubeconfig.document import Kubeconfig
from syncer.kubeconfig.secret import KUBECONFIG_OF, Change, Create, Leave, decide, secret
from syncer.kubeconfig.writer import keys_of, server_of
from syncer.naming import Names
from syncer.objects import Key, Object
from syncer.ownership import MANAGED_BY, virtual_key
from syncer.settings import Settings
from tests.unit.test_kubeconfig_document import ADMIN, CA, CERTIFICATE

KEY = Key("host-1", "vc-one")
OF = Key("host-1", "one")
OWNER = {"apiVersion": "v1", "kind": "Service", "name": "one", "uid": "u-1"}
OTHER = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x", "uid": "u-9"}
WANTED = secret(KEY, ADMIN, of=OF, owner=OWNER)


def on_host(wanted: Object, **metadata: Any) -> Object:
    """Give a secret as the host would have it."""
    found = copy.deepcopy(wanted)
    found["metadata"] |= {"uid": "u-2", "resourceVersion": "7", **metadata}
    return found


def original(**metadata: Any) -> Object:
    """Give the secret as vcluster writes it: without any mark of ours."""
    found = on_host(WANTED, annotations={}, **metadata)
    found["data"]["config"] = b64encode(b"apiVersion: v1\n").decode()
    return found


def with_data(found: Object, **data: str | None) -> Object:
    """Give a secret with other data; ``None`` takes a key out."""
    merged = found["data"] | {key.replace("_", "-"): value for key, value in data.items()}
    return found | {"data": {key: value for key, value in merged.items() if value is not None}}


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(on_host(WANTED), id="as written"),
        pytest.param(
            on_host(WANTED, labels={"a": "b"}, annotations={KUBECONFIG_OF: str(OF), "c": "d"}),
            id="labels and annotations of others",
        ),
        pytest.param(with_data(on_host(WANTED), note="eA=="), id="a key of others"),
        pytest.param(on_host(WANTED, ownerReferences=[OTHER, OWNER]), id="an owner of others"),
    ],
)
def test_nothing_is_written_when_nothing_differs(found: Object) -> None:
    """What others add to our secret stays, and is no reason to write."""
    assert decide(found, WANTED) is None


def test_a_missing_one_is_made_whole() -> None:
    """It has the four keys, the mark and the owner."""
    assert decide(None, WANTED) == Create(WANTED)
    assert WANTED["data"].keys() == {
        "config",
        "certificate-authority",
        "client-certificate",
        "client-key",
    }
    assert WANTED["type"] == "Opaque"
    assert WANTED["metadata"]["ownerReferences"] == [{**OWNER, "controller": False}]


def test_without_owner_there_is_no_reference() -> None:
    """--set-owner=false, or another namespace."""
    assert "ownerReferences" not in secret(KEY, ADMIN, of=OF, owner=None)["metadata"]


def test_a_token_leaves_the_certificate_keys_empty() -> None:
    """All four keys are always there, as in the original."""
    data = secret(KEY, Kubeconfig("https://a", token="t"), of=OF, owner=None)["data"]
    assert (data["client-certificate"], data["client-key"]) == ("", "")


@pytest.mark.parametrize(
    ("found", "changed", "what"),
    [
        pytest.param(
            with_data(on_host(WANTED), client_key="eA=="),
            {"data": {"client-key": WANTED["data"]["client-key"]}},
            ("client-key",),
            id="a key was changed",
        ),
        pytest.param(
            with_data(on_host(WANTED), config=None),
            {"data": {"config": WANTED["data"]["config"]}},
            ("config",),
            id="a key was removed",
        ),
        pytest.param(
            on_host(WANTED, ownerReferences=[OTHER, {**OWNER, "uid": "u-0"}]),
            {"metadata": {"ownerReferences": [OTHER, {**OWNER, "controller": False}]}},
            ("ownerReferences",),
            id="the owner was made again",
        ),
        pytest.param(
            original(),
            {
                "metadata": {"annotations": {KUBECONFIG_OF: str(OF)}},
                "data": {"config": WANTED["data"]["config"]},
            },
            ("annotations", "config"),
            id="vcluster's, by its owner",
        ),
        pytest.param(
            original(ownerReferences=[]),
            {
                "metadata": {
                    "annotations": {KUBECONFIG_OF: str(OF)},
                    "ownerReferences": [{**OWNER, "controller": False}],
                },
                "data": {"config": WANTED["data"]["config"]},
            },
            ("annotations", "ownerReferences", "config"),
            id="vcluster's without owner, by its CA",
        ),
    ],
)
def test_only_what_differs_is_written(found: Object, changed: Object, what: tuple[str]) -> None:
    """One patch with UID and version, so that a successor of the secret is never hit."""
    identity = {"uid": "u-2", "resourceVersion": "7"}
    patch = {**changed, "metadata": {**identity, **changed.get("metadata", {})}}
    assert decide(found, WANTED) == Change(patch, what)


STRANGER = b64encode(CERTIFICATE).decode()


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        pytest.param(
            on_host(WANTED, annotations={KUBECONFIG_OF: "host-1/two"}), WANTED, id="another's mark"
        ),
        pytest.param(
            on_host(WANTED, annotations={KUBECONFIG_OF: "host-2/one"}),
            WANTED,
            id="a namesake's mark from another namespace",
        ),
        pytest.param(on_host(WANTED) | {"type": "kubernetes.io/tls"}, WANTED, id="another type"),
        pytest.param(with_data(original(), note="eA=="), WANTED, id="a fifth key"),
        pytest.param(with_data(original(), config=None), WANTED, id="three keys"),
        pytest.param({**original(), "data": {}}, WANTED, id="empty"),
        pytest.param(original(ownerReferences=[OTHER]), WANTED, id="another owner"),
        pytest.param(
            original(ownerReferences=[{**OWNER, "controller": False}, OTHER]),
            WANTED,
            id="another owner too",
        ),
        pytest.param(
            with_data(original(ownerReferences=[]), certificate_authority=STRANGER),
            WANTED,
            id="another CA and no owner",
        ),
        pytest.param(
            with_data(original(ownerReferences=[]), certificate_authority=""),
            WANTED,
            id="no CA and no owner",
        ),
    ],
)
def test_what_is_not_ours_stays(found: Object, wanted: Object) -> None:
    """A namesake is left alone; the reason names it and what to do, and nothing that is in it."""
    left = decide(found, wanted)
    assert isinstance(left, Leave)
    assert not left.wait
    assert "host-1/vc-one" in left.reason
    assert "kubectl -n host-1 delete secret vc-one" in left.reason


def test_what_is_wrong_with_it_is_said() -> None:
    """Whose it is, or of what type: nobody is sent to look for a second of themselves."""
    others = decide(on_host(WANTED, annotations={KUBECONFIG_OF: "host-1/two"}), WANTED)
    typed = decide(on_host(WANTED) | {"type": "kubernetes.io/tls"}, WANTED)
    assert isinstance(others, Leave)
    assert isinstance(typed, Leave)
    assert "is that of virtual cluster host-1/two and stays" in others.reason
    assert "is of type kubernetes.io/tls, not Opaque, and stays" in typed.reason


def test_vclusters_own_is_taken_over_without_an_owner_too() -> None:
    """--set-owner=false after vcluster ran with an owner: the CA says whose it is."""
    wanted = secret(KEY, ADMIN, of=OF, owner=None)
    change = decide(original(), wanted)
    assert isinstance(change, Change)
    assert "ownerReferences" not in change.patch["metadata"]


def test_one_that_is_being_deleted_is_waited_for() -> None:
    """It is made again when it is gone, and nobody is warned."""
    left = decide(on_host(WANTED, deletionTimestamp="2026-01-01T00:00:00Z"), WANTED)
    assert isinstance(left, Leave)
    assert left.wait


def test_the_engine_takes_it_for_no_copy() -> None:
    """It has no label that the engine selects by, and is nobody's copy."""
    assert MANAGED_BY not in WANTED["metadata"].get("labels", {})
    assert virtual_key(on_host(WANTED), Names("one", "host-1")) is None


def test_a_rotated_ca_is_a_change_of_two_keys() -> None:
    """The CA stands in its own key and in the kubeconfig."""
    rotated = secret(KEY, replace(ADMIN, authority=CERTIFICATE), of=OF, owner=OWNER)
    change = decide(on_host(WANTED), rotated)
    assert isinstance(change, Change)
    assert change.what == ("config", "certificate-authority")
    assert ADMIN.authority == CA


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({}, ["n/vc-one"], id="one"),
        pytest.param(
            {"out_kube_config_secret": "x"}, ["n/vc-one", "n/x"], id="a second in the same place"
        ),
        pytest.param(
            {"out_kube_config_secret": "x", "out_kube_config_secret_namespace": "m"},
            ["n/vc-one", "m/x"],
            id="a second elsewhere",
        ),
        pytest.param({"out_kube_config_secret": "vc-one"}, ["n/vc-one"], id="the same"),
    ],
)
def test_where_it_is_kept(settings: dict[str, str], expected: list[str]) -> None:
    """In vc-NAME in the syncer's own namespace, and in what the flags name, once each."""
    given = Settings(name="one", current_namespace="n", **settings)  # type: ignore[arg-type]
    assert [str(key) for key in keys_of(given)] == expected


def test_the_server_it_names() -> None:
    """Localhost and the endpoint's port, unless a flag says what reaches it from outside."""
    assert server_of(Settings(), 8443) == "https://localhost:8443"
    given = Settings(out_kube_config_server="https://a:1")
    assert server_of(given, 8443) == "https://a:1"
