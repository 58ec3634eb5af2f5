"""References with shortened host names: a pod never gets one that may be another tenant's."""

from __future__ import annotations

from typing import Any

import pytest

from mappers.pods import KIND, references
from syncer import paths
from syncer.naming import PREFIX, Names
from syncer.objects import Key, Object, Side
from syncer.types import Blocked, Ref
from tests.unit.mappers.pods.support import (
    NAMES,
    NAMESPACE,
    answer,
    context,
    host_name,
    on_host,
    pod,
    synced,
    updated,
    wanted,
)

LONGEST = NAMES.longest(NAMESPACE)
LONG = "n" * (LONGEST + 1)


def _volume(source: Object) -> Object:
    return {"volumes": [{"name": "v", **source}]}


def _container(**fields: Any) -> Object:
    return {"containers": [{"name": "main", "image": "i", **fields}]}


def _env(source: Object) -> Object:
    return _container(env=[{"name": "A", "valueFrom": source}])


def _own(target: str, name: str = LONG) -> Ref:
    return Ref(Side.VIRTUAL, target, Key(NAMESPACE, name))


def _theirs(target: str, name: str = LONG) -> Ref:
    return Ref(Side.HOST, target, NAMES.host_key(Key(NAMESPACE, name)))


REQUIRED = [
    pytest.param("secrets", "Secret", _volume({"secret": {"secretName": LONG}}), id="volume"),
    pytest.param(
        "configmaps", "ConfigMap", _volume({"configMap": {"name": LONG}}), id="map volume"
    ),
    pytest.param(
        "secrets",
        "Secret",
        _volume({"projected": {"sources": [{"secret": {"name": LONG, "optional": False}}]}}),
        id="projected",
    ),
    pytest.param("secrets", "Secret", _env({"secretKeyRef": {"name": LONG}}), id="env"),
    pytest.param(
        "configmaps",
        "ConfigMap",
        _container(envFrom=[{"configMapRef": {"name": LONG}}]),
        id="envFrom",
    ),
    pytest.param(
        "secrets",
        "Secret",
        _volume({"csi": {"driver": "d", "nodePublishSecretRef": {"name": LONG}}}),
        id="driver",
    ),
    pytest.param(
        "persistentvolumeclaims",
        "PersistentVolumeClaim",
        _volume({"persistentVolumeClaim": {"claimName": LONG}}),
        id="claim",
    ),
    pytest.param(
        "endpoints",
        "Endpoints",
        _volume({"glusterfs": {"endpoints": LONG, "path": "p"}}),
        id="endpoints",
    ),
]
OPTIONAL = [
    pytest.param(
        "spec.volumes[].secret.secretName",
        _volume({"secret": {"secretName": LONG, "optional": True}}),
        id="volume",
    ),
    pytest.param(
        "spec.volumes[].configMap.name",
        _volume({"configMap": {"name": LONG, "optional": True}}),
        id="map volume",
    ),
    pytest.param(
        "spec.volumes[].projected.sources[].configMap.name",
        _volume({"projected": {"sources": [{"configMap": {"name": LONG, "optional": True}}]}}),
        id="projected",
    ),
    pytest.param(
        "spec.containers[].env[].valueFrom.secretKeyRef.name",
        _env({"secretKeyRef": {"name": LONG, "key": "k", "optional": True}}),
        id="env",
    ),
    pytest.param(
        "spec.containers[].envFrom[].secretRef.name",
        _container(envFrom=[{"secretRef": {"name": LONG, "optional": True}}]),
        id="envFrom",
    ),
    pytest.param(
        "spec.imagePullSecrets[].name", {"imagePullSecrets": [{"name": LONG}]}, id="pull secret"
    ),
]


def test_a_short_name_is_not_looked_up() -> None:
    """A pod whose host names are whole declares none of what it names, at the longest too."""
    spec = _volume({"secret": {"secretName": "n" * LONGEST}})
    assert KIND.related is not None
    needs = KIND.related(pod(spec), None, context(pod()))
    assert not [need for need in needs if isinstance(need, Ref) and need.resource == "secrets"]
    assert list(paths.values(wanted(pod(spec)), "spec.volumes[].secret.secretName")) == [
        host_name("n" * LONGEST)
    ]


@pytest.mark.parametrize("row", references.RENAMED, ids=lambda row: row.path)
def test_every_row_is_watched(row: Any) -> None:
    """Both sides of each long name are declared; those of ephemeral containers not at creation."""
    spec: Object = {}
    here: Any = spec
    *way, last = row.path.split(".")[1:]
    for step in way:
        item: Object = {"name": "item"}
        here[step.removesuffix("[]")] = [item] if step.endswith("[]") else item
        here = item
    here[last] = LONG
    declared = context(pod(spec)).objects
    expected = "ephemeralContainers" not in row.path
    assert (_theirs(row.target) in declared) is expected
    if expected:
        assert _own(row.target) in declared


@pytest.mark.parametrize(("target", "kind", "spec"), REQUIRED)
def test_waits_for_what_is_missing(target: str, kind: str, spec: Object) -> None:
    """Without the tenant's object there is no pod, whatever the host has; the tenant is told."""
    blocked = Blocked(f"waiting for {kind} {NAMESPACE}/{LONG}", on=_own(target), event=True)
    assert answer(pod(spec)) == blocked
    theirs = synced(target, LONG) | {_own(target): None}
    assert answer(pod(spec), world=theirs) == blocked


@pytest.mark.parametrize(("target", "kind", "spec"), REQUIRED)
def test_waits_for_the_copy(target: str, kind: str, spec: Object) -> None:
    """With the tenant's object but no copy yet, the pod waits for that."""
    world = synced(target, LONG) | {_theirs(target): None}
    reason = f"waiting for the copy of {kind} {NAMESPACE}/{LONG}"
    assert answer(pod(spec), world=world) == Blocked(reason, on=_theirs(target))


@pytest.mark.parametrize(("target", "kind", "spec"), REQUIRED)
def test_is_made_with_the_copy(target: str, kind: str, spec: Object) -> None:
    """With our copy seen, the pod is made and names it."""
    made = wanted(pod(spec), world=synced(target, LONG))
    assert host_name(LONG) in str(made), kind


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {f"{PREFIX}managed-by": "another"}},
        {"labels": {}},
        {"annotations": {}},
        {"annotations": {f"{PREFIX}object-name": "o", f"{PREFIX}object-namespace": NAMESPACE}},
    ],
    ids=["another tenant's", "no label", "no annotations", "another object's"],
)
@pytest.mark.parametrize("optional", [False, True], ids=["required", "optional"])
def test_a_strangers_object_is_not_the_copy(change: Object, optional: bool) -> None:
    """The marks decide, also where the tenant has an object of that name."""
    world = synced("secrets", LONG)
    copy = world[_theirs("secrets")]
    assert copy is not None
    copy["metadata"] |= change
    spec = _volume({"secret": {"secretName": LONG, "optional": optional}})
    found = answer(pod(spec), world=world)
    assert isinstance(found, Blocked)
    assert found.on == _theirs("secrets")


@pytest.mark.parametrize(("path", "spec"), OPTIONAL)
def test_optional_and_missing_names_nobodys_object(path: str, spec: Object) -> None:
    """The pod is made, with a name that no tenant's copy can have and no other pod shares."""
    [name] = paths.values(wanted(pod(spec)), path)
    [other] = paths.values(wanted(pod(spec, uid="another")), path)
    assert isinstance(name, str)
    assert name.startswith("missing-")
    assert "-x-" not in name
    assert len(name) < 62
    assert name != other


@pytest.mark.parametrize(("path", "spec"), OPTIONAL)
def test_optional_and_there_names_the_copy(path: str, spec: Object) -> None:
    """An optional object that is there is waited for and named like any other."""
    target = next(row.target for row in references.RENAMED if row.path == path)
    world = synced(target, LONG)
    assert list(paths.values(wanted(pod(spec), world=world), path)) == [host_name(LONG)]


def test_required_once_is_required() -> None:
    """A Secret that is optional here and required there is waited for."""
    spec = _volume({"secret": {"secretName": LONG, "optional": True}})
    found = answer(pod(spec | _env({"secretKeyRef": {"name": LONG, "key": "k"}})))
    assert isinstance(found, Blocked)


def test_a_map_of_the_same_name_changes_nothing() -> None:
    """A missing optional Secret stays missing beside a ConfigMap of its name."""
    secret = {"name": "v", "secret": {"secretName": LONG, "optional": True}}
    spec = {"volumes": [secret, {"name": "w", "configMap": {"name": LONG}}]}
    first, second = wanted(pod(spec), world=synced("configmaps", LONG))["spec"]["volumes"]
    assert first["secret"]["secretName"].startswith("missing-")
    assert second["configMap"]["name"] == host_name(LONG)


def test_the_claim_of_an_ephemeral_volume_is_waited_for_in_silence() -> None:
    """The claim is made for the pod in a moment: nothing to tell; then its copy is named."""
    name = "v" * LONGEST
    spec = {"volumes": [{"name": name, "ephemeral": {}}]}
    claim = references.claim_name("web", name)
    own = _own("persistentvolumeclaims", claim)
    reason = f"waiting for PersistentVolumeClaim {NAMESPACE}/{claim}"
    assert answer(pod(spec)) == Blocked(reason, on=own)
    made = wanted(pod(spec), world=synced("persistentvolumeclaims", claim))
    [volume] = made["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == host_name(claim)


def test_a_pod_on_the_host_is_left_alone() -> None:
    """What can't change any more is not looked up again."""
    virtual = pod(_volume({"secret": {"secretName": LONG}}))
    host = on_host(virtual, world=synced("secrets", LONG))
    assert _theirs("secrets") not in context(virtual, host).objects
    assert updated(virtual, host) == host


def _debug(optional: bool = False) -> Object:
    source = {"secretRef": {"name": LONG, "optional": optional}}
    return pod({"ephemeralContainers": [{"name": "debug", "image": "i", "envFrom": [source]}]})


def test_an_ephemeral_container_waits_too() -> None:
    """One that names what isn't there is left out, told, and added once our copy is seen."""
    virtual, host = _debug(), on_host(pod())
    ctx = context(virtual, host)
    assert KIND.to_host is not None
    made = KIND.to_host(virtual, ctx)
    assert isinstance(made, dict)
    assert made["spec"]["ephemeralContainers"] == []
    [notice] = ctx.notices
    assert notice.message == f"ephemeral container 'debug': waiting for Secret {NAMESPACE}/{LONG}"
    there = wanted(virtual, host, world=synced("secrets", LONG))
    [container] = there["spec"]["ephemeralContainers"]
    assert container["envFrom"][0]["secretRef"]["name"] == host_name(LONG)


def test_an_ephemeral_container_does_without() -> None:
    """One that can do without a missing object is added, naming nobody's."""
    made = wanted(_debug(optional=True), on_host(pod()))
    [container] = made["spec"]["ephemeralContainers"]
    assert container["envFrom"][0]["secretRef"]["name"].startswith("missing-")


@pytest.mark.parametrize("name", ["n" * LONGEST, LONG], ids=["longest", "longer"])
@pytest.mark.parametrize("tenant", ["vc", "another-tenant"])
def test_shortened_is_what_host_name_cuts(name: str, tenant: str) -> None:
    """The cheap test and the translation agree at the border."""
    names = Names(tenant, "host-ns")
    for namespace in ("", NAMESPACE, "a-longer-namespace"):
        whole = names.host_name(name, namespace) == f"{name}-x-{namespace}-x-{tenant}"
        assert names.is_shortened(name, namespace) is not whole
