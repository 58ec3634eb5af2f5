"""Service-account tokens of pods: the pure part.

A projected ``serviceAccountToken`` on the host would be the host's. So the virtual API server is
asked for a token, bound to the virtual pod; it is kept in a Secret of the pod's own (made before
the pod, removed with it) or, with ``--service-account-token-secrets=false``, in annotations of
the host pod, and mounted from there under the path the tenant asked for.

Invariants:
* a token's audience and life are those the pod asks for; renewal goes by the token's own times,
  for an API server may extend a life and not say so;
* a running host pod's volumes can't change: its tokens are renewed under the keys and in the
  form that it mounts, whatever the setting says now (also for pods taken over).

Never here: the request itself, and when to make it.

Source: https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/
    token-request-v1/; KEP-1205 bound service account tokens; vcluster v0.16.4
    ``pods/translate`` (names of Secret, annotations and default audiences).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from syncer import ownership
from syncer.naming import PREFIX, Names
from syncer.objects import Key, Object, key_of

ANNOTATION: Final = f"{PREFIX}token-"
MODE: Final = 0o644
DEFAULT_SECONDS: Final = 3600
MIN_SECONDS: Final = 600
EXTENDED_SECONDS: Final = 3607
"""What kubelet-injected volumes ask for; an API server answers it with a token of one year."""

RENEW_AT: Final = 0.8
"""Share of a token's life after which it is renewed, as the kubelet does."""


@dataclass(frozen=True, slots=True)
class TokenWanted:
    """One token that a pod mounts.

    Attributes:
        key: key in the token Secret, or the end of the annotation's key.
        audiences: whom the token is for.
        expiration_seconds: the life to ask for.
    """

    key: str
    audiences: tuple[str, ...]
    expiration_seconds: int

    @property
    def annotation(self) -> str:
        """Key of the annotation that holds it in the annotation form."""
        return f"{ANNOTATION}{self.key}"


def service_account_key(virtual: Object) -> Key:
    """Name the virtual ServiceAccount of a pod."""
    spec = virtual["spec"]
    name = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    return Key(virtual["metadata"]["namespace"], name)


def secret_key(virtual: Object, names: Names) -> Key:
    """Name the host Secret that holds a pod's tokens."""
    namespace, name = key_of(virtual)
    return Key(names.host_namespace, names.host_name(f"{name}-sa-token", namespace))


def wanted_tokens(
    virtual: Object, host: Object | None = None, cluster_domain: str = "cluster.local"
) -> list[TokenWanted]:
    """List the tokens that a pod mounts.

    Args:
        virtual: the virtual pod.
        host: its host copy, whose volumes say under which keys it reads them; or ``None``.
        cluster_domain: DNS domain of the virtual cluster, for the default audiences.

    Returns:
        One entry for each projected ``serviceAccountToken``; empty when it mounts none.
    """
    keys = _mounted(host)[0] if host is not None else {}
    result: list[TokenWanted] = []
    for volume in virtual["spec"].get("volumes") or ():
        for source in (volume.get("projected") or {}).get("sources") or ():
            if token := source.get("serviceAccountToken"):
                place = (volume["name"], token["path"])
                key = keys.get(place) or token_key(*place)
                seconds = _seconds(token.get("expirationSeconds"))
                result.append(TokenWanted(key, _audiences(token, cluster_domain), seconds))
    return result


def mounts_annotations(host: Object) -> bool:
    """Say whether a host pod reads its tokens from annotations, whatever the setting is now."""
    return _mounted(host)[1]


def token_key(volume: str, path: str) -> str:
    """Name the token that a volume mounts under a path: 8 hex digits."""
    return sha256(f"{volume}/{path}".encode()).hexdigest()[:8]


def _audiences(token: Object, cluster_domain: str) -> tuple[str, ...]:
    """Give the audience asked for, or the names of the virtual API server."""
    if audience := token.get("audience"):
        return (audience,)
    service = "https://kubernetes.default"
    return (f"{service}.svc.{cluster_domain}", f"{service}.svc", service)


def _seconds(asked: int | None) -> int:
    """Give the life to ask for, in seconds."""
    if asked is None or asked == EXTENDED_SECONDS:
        return DEFAULT_SECONDS
    return max(asked, MIN_SECONDS)


def _mounted(host: Object) -> tuple[dict[tuple[str, str], str], bool]:
    """Read where a host pod mounts tokens from.

    Returns:
        Keys by (volume, path) of everything that may be a token, and whether annotations are
        mounted as tokens.
    """
    keys: dict[tuple[str, str], str] = {}
    by_annotation = False
    prefix = f"metadata.annotations['{ANNOTATION}"
    for volume in host["spec"].get("volumes") or ():
        for source in (volume.get("projected") or {}).get("sources") or ():
            for item in (source.get("secret") or {}).get("items") or ():
                keys[volume["name"], item["path"]] = item["key"]
            for item in (source.get("downwardAPI") or {}).get("items") or ():
                field_path = (item.get("fieldRef") or {}).get("fieldPath", "")
                if field_path.startswith(prefix):
                    by_annotation = True
                    key = field_path[len(prefix) :].removesuffix("']")
                    keys[volume["name"], item["path"]] = key
    return keys, by_annotation


def host_source(
    virtual: Object, volume: str, token: Object, names: Names, *, secret: bool
) -> Object:
    """Translate one ``serviceAccountToken`` source of a projected volume.

    The mode is readable for all, as the kubelet's rules for the owner of real tokens don't
    hold for other sources.

    Args:
        virtual: the virtual pod.
        volume: name of the volume.
        token: the ``serviceAccountToken`` source.
        names: the tenant's names.
        secret: whether the token is in the Secret, else in an annotation.
    """
    path = token["path"]
    key = token_key(volume, path)
    if secret:
        items = [{"key": key, "path": path, "mode": MODE}]
        name = secret_key(virtual, names).name
        return {"secret": {"name": name, "items": items, "optional": False}}
    field_path = f"metadata.annotations['{ANNOTATION}{key}']"
    item = {"path": path, "fieldRef": {"fieldPath": field_path}, "mode": MODE}
    return {"downwardAPI": {"items": [item]}}


def token_request(virtual: Object, wanted: TokenWanted) -> Object:
    """Build the TokenRequest for one token, bound to the virtual pod.

    It is posted to the ``token`` subresource of :func:`service_account_key`.
    """
    metadata = virtual["metadata"]
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": list(wanted.audiences),
            "expirationSeconds": wanted.expiration_seconds,
            "boundObjectRef": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        },
    }


def token_secret(virtual: Object, tokens: Mapping[str, str], names: Names) -> Object:
    """Build the host Secret with a pod's tokens.

    It has no virtual namesake: ``skip-backsync`` says so to a syncer of the original, and
    ``child-of`` names the pod it lives and dies with.

    Args:
        virtual: the virtual pod.
        tokens: JWTs by :attr:`TokenWanted.key`.
        names: the tenant's names.
    """
    key = key_of(virtual)
    host_key = secret_key(virtual, names)
    metadata: Object = {
        "name": host_key.name,
        "namespace": host_key.namespace,
        "labels": {
            ownership.MANAGED_BY: names.marker,
            ownership.NAMESPACE: key.namespace,
        },
        "annotations": {
            ownership.SKIP_BACKSYNC: "true",
            ownership.CHILD_OF: f"pods {key}",
            ownership.OBJECT_UID: virtual["metadata"]["uid"],
        },
    }
    data = {name: base64.b64encode(jwt.encode()).decode() for name, jwt in tokens.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "data": data,
    }


def with_token_annotations(host_pod: Object, tokens: Mapping[str, str]) -> Object:
    """Put tokens of the annotation form on a wanted host pod.

    Args:
        host_pod: what ``to_host`` gave; not changed.
        tokens: JWTs by :attr:`TokenWanted.key`.

    Returns:
        A copy that shares all but the annotations.
    """
    metadata = host_pod["metadata"]
    annotations = dict(metadata.get("annotations") or {})
    annotations.update({f"{ANNOTATION}{key}": jwt for key, jwt in tokens.items()})
    return {**host_pod, "metadata": {**metadata, "annotations": annotations}}


def annotated_tokens(host_pod: Object, needed: Iterable[TokenWanted]) -> dict[str, str]:
    """Read the tokens that a host pod has in its annotations.

    Args:
        host_pod: as it is on the host.
        needed: what :func:`wanted_tokens` gave.

    Returns:
        JWTs by :attr:`TokenWanted.key`, for those that are there.
    """
    annotations = host_pod["metadata"].get("annotations") or {}
    return {
        want.key: annotations[want.annotation] for want in needed if want.annotation in annotations
    }


def expiry(jwt: str) -> int:
    """Read when a token ends, in seconds since the epoch.

    Raises:
        ValueError: it is no JWT with an ``exp``.
    """
    return _time(_claims(jwt), "exp")


def renew_at(jwt: str) -> float:
    """Say when a token is to be renewed, in seconds since the epoch.

    Raises:
        ValueError: it is no JWT with an ``iat`` and an ``exp``.
    """
    claims = _claims(jwt)
    issued = _time(claims, "iat")
    return issued + RENEW_AT * (_time(claims, "exp") - issued)


def due_at(jwt: str) -> float:
    """Say when what is in a token's place is to be renewed: at once (0) when it is no token."""
    try:
        return renew_at(jwt)
    except ValueError:
        return 0.0


def _claims(jwt: str) -> Mapping[str, Any]:
    """Decode the claims of a JWT; its signature is for its readers to check."""
    try:
        _, payload, _ = jwt.split(".")
        padded = payload + "=" * (-len(payload) % 4)
        claims = json.loads(base64.urlsafe_b64decode(padded))
    except (ValueError, binascii.Error) as error:
        raise ValueError("not a JWT") from error
    if not isinstance(claims, dict):
        raise ValueError("not a JWT: its claims are no object")
    return claims


def _time(claims: Mapping[str, Any], name: str) -> int:
    """Read a time claim."""
    value = claims.get(name)
    if not isinstance(value, int | float):
        raise ValueError(f"the token has no {name}")
    return int(value)
