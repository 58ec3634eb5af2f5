"""Service-account tokens: what is asked for, where it is kept, when it is renewed."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from mappers.pods import tokens
from syncer import ownership
from syncer.objects import Key, Object
from tests.unit.mappers.pods.support import NAMES, NAMESPACE, host_name, on_host, pod, wanted

DEFAULT_AUDIENCES = (
    "https://kubernetes.default.svc.cluster.local",
    "https://kubernetes.default.svc",
    "https://kubernetes.default",
)


def _pod(*sources: Object, name: str = "api") -> Object:
    """Give a pod with one projected volume of token sources."""
    projected = {"defaultMode": 0o400, "sources": [{"serviceAccountToken": s} for s in sources]}
    return pod({"volumes": [{"name": name, "projected": projected}]})


def _jwt(**claims: Any) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"header.{payload}.signature"


def test_pod_without_tokens_wants_none() -> None:
    """A pod that mounts no token gets none."""
    assert tokens.wanted_tokens(pod({"volumes": [{"name": "v", "emptyDir": {}}]})) == []


@pytest.mark.parametrize(
    ("source", "audiences", "seconds"),
    [
        ({"path": "t"}, DEFAULT_AUDIENCES, 3600),
        ({"path": "t", "expirationSeconds": 3607}, DEFAULT_AUDIENCES, 3600),
        ({"path": "t", "expirationSeconds": 7200}, DEFAULT_AUDIENCES, 7200),
        ({"path": "t", "expirationSeconds": 60}, DEFAULT_AUDIENCES, 600),
        ({"path": "t", "audience": "vault"}, ("vault",), 3600),
    ],
    ids=["default", "never the extended life", "asked for", "at least ten minutes", "audience"],
)
def test_token_is_as_asked_for(source: Object, audiences: Any, seconds: int) -> None:
    """Audience and life are the pod's choice, within what API servers give."""
    [want] = tokens.wanted_tokens(_pod(source))
    assert (want.audiences, want.expiration_seconds) == (audiences, seconds)


def test_default_audience_follows_the_domain() -> None:
    """The default audience is the virtual API server under the configured domain."""
    [want] = tokens.wanted_tokens(_pod({"path": "t"}), None, "corp.test")
    assert want.audiences[0] == "https://kubernetes.default.svc.corp.test"


def test_keys_differ_by_volume_and_path() -> None:
    """Each token has a key of its own, the same each time, and valid in a Secret."""
    pods = [_pod({"path": "a"}, {"path": "b"}), _pod({"path": "a"}, name="other")]
    keys = [want.key for virtual in pods for want in tokens.wanted_tokens(virtual)]
    again = [want.key for virtual in pods for want in tokens.wanted_tokens(virtual)]
    assert keys == again
    assert len(set(keys)) == 3
    assert all(len(key) == 8 and key.isalnum() for key in keys)


@pytest.mark.parametrize("in_secrets", [True, False])
def test_running_pod_keeps_keys_and_form(in_secrets: bool) -> None:
    """Tokens are renewed where the host pod mounts them, also under keys of the original."""
    virtual = _pod({"path": "a"})
    host = on_host(virtual, service_account_token_secrets=in_secrets)
    [own] = tokens.wanted_tokens(virtual)
    foreign = json.loads(json.dumps(host).replace(own.key, "abcdefgh"))
    assert tokens.wanted_tokens(virtual, host) == [own]
    assert [want.key for want in tokens.wanted_tokens(virtual, foreign)] == ["abcdefgh"]
    assert tokens.mounts_annotations(host) is not in_secrets


def test_mounted_from_the_secret() -> None:
    """The token is mounted from the pod's Secret, readable; the volume's other modes stay."""
    virtual = _pod({"path": "dir/token"})
    [want] = tokens.wanted_tokens(virtual)
    assert wanted(virtual)["spec"]["volumes"][0]["projected"] == {
        "defaultMode": 0o400,
        "sources": [
            {
                "secret": {
                    "name": host_name("web-sa-token"),
                    "items": [{"key": want.key, "path": "dir/token", "mode": 0o644}],
                    "optional": False,
                }
            }
        ],
    }


def test_mounted_from_annotations() -> None:
    """In the annotation form the downward API mounts what is put on the pod."""
    virtual = _pod({"path": "token"})
    [want] = tokens.wanted_tokens(virtual)
    made = wanted(virtual, service_account_token_secrets=False)
    source = made["spec"]["volumes"][0]["projected"]["sources"][0]
    path = f"metadata.annotations['{want.annotation}']"
    item = {"path": "token", "fieldRef": {"fieldPath": path}, "mode": 0o644}
    assert source == {"downwardAPI": {"items": [item]}}
    given = tokens.with_token_annotations(made, {want.key: "jwt"})
    assert given["metadata"]["annotations"][want.annotation] == "jwt"
    assert want.annotation not in made["metadata"]["annotations"]
    assert tokens.annotated_tokens(given, [want]) == {want.key: "jwt"}
    assert tokens.annotated_tokens(made, [want]) == {}


def test_request_is_bound_to_the_pod() -> None:
    """The token dies with the very pod it was made for."""
    virtual = _pod({"path": "t", "audience": "vault"})
    [want] = tokens.wanted_tokens(virtual)
    assert tokens.token_request(virtual, want)["spec"] == {
        "audiences": ["vault"],
        "expirationSeconds": 3600,
        "boundObjectRef": {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": "web",
            "uid": "virtual-uid",
        },
    }


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"serviceAccountName": ""}, "default"),
        ({"serviceAccountName": "robot"}, "robot"),
        ({"serviceAccountName": "", "serviceAccount": "old"}, "old"),
    ],
    ids=["default", "named", "deprecated field"],
)
def test_service_account_of_a_pod(spec: Object, expected: str) -> None:
    """The token is that of the pod's own service account."""
    assert tokens.service_account_key(pod(spec)) == Key(NAMESPACE, expected)


def test_secret_is_the_pods_child() -> None:
    """The Secret has our marks, names its pod and UID, and claims no virtual namesake."""
    secret = tokens.token_secret(pod(), {"k": "jwt"}, NAMES)
    assert secret["metadata"] == {
        "name": host_name("web-sa-token"),
        "namespace": "host-ns",
        "labels": {ownership.MANAGED_BY: "vc", ownership.NAMESPACE: NAMESPACE},
        "annotations": {
            ownership.SKIP_BACKSYNC: "true",
            ownership.CHILD_OF: f"pods {NAMESPACE}/web",
            ownership.OBJECT_UID: "virtual-uid",
        },
    }
    assert secret["data"] == {"k": base64.b64encode(b"jwt").decode()}
    assert ownership.virtual_key(secret, NAMES) is None


def test_renewal_goes_by_the_tokens_own_times() -> None:
    """A token is renewed at 80 % of the life written in itself."""
    jwt = _jwt(iat=1000, exp=2000)
    assert tokens.expiry(jwt) == 2000
    assert tokens.renew_at(jwt) == 1800.0


@pytest.mark.parametrize(
    "jwt",
    ["", "a.b", "a.!.c", "a.e30.c", _jwt(exp="soon", iat=1), "a.W10.c", "a.é.c"],
    ids=["empty", "parts", "base64", "no times", "no number", "no object", "no ascii"],
)
def test_what_is_no_token_is_an_error(jwt: str) -> None:
    """A text without times is an error that names no part of it."""
    with pytest.raises(ValueError, match=r"not a JWT|the token has no"):
        tokens.renew_at(jwt)
    with pytest.raises(ValueError, match=r"not a JWT|the token has no"):
        tokens.expiry(jwt)
    assert tokens.due_at(jwt) == 0.0, "and is renewed at once"


def test_a_tenants_annotation_in_a_tokens_place_does_not_cross() -> None:
    """Where the pod mounts a token from only we write; other such keys are an inner tenant's."""
    virtual = _pod({"path": "token"})
    [token] = tokens.wanted_tokens(virtual)
    inner = f"{tokens.ANNOTATION}abcd1234"
    virtual["metadata"]["annotations"] = {token.annotation: "forged", inner: "kept"}
    annotations = wanted(virtual)["metadata"]["annotations"]
    assert token.annotation not in annotations
    assert annotations[inner] == "kept"
