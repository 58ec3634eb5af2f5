"""No field of a real server's pods is undecided: what the mapper doesn't know shows here first.

The walk goes over the OpenAPI v3 schema that the API server serves. When a newer Kubernetes adds
a field this fails until the field is put into one of the lists of :mod:`mappers.pods.fields` (or
the status lists), and, where it names an object, into the table of references.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

import pytest

from mappers.pods import fields, references, virtual
from syncer.objects import Object
from tests.integration.shared_host import SharedHost

_CORE = "io.k8s.api.core.v1."

_NAMES_SOMETHING = re.compile(r"(?i)(name|ref|secret|claim|endpoints|selector|namespaces?)s?$")
"""Field names that may name an object, or select some."""

DECIDED = {
    # -- of the pod itself, a container, a volume or a port of it: the same on both sides
    "spec.volumes[].name": "own",
    "spec.CONTAINERS[].name": "own",
    "spec.CONTAINERS[].env[].name": "own",
    "spec.CONTAINERS[].ports[].name": "own",
    "spec.CONTAINERS[].resizePolicy[].resourceName": "a resource such as cpu",
    "spec.CONTAINERS[].volumeDevices[].name": "own",
    "spec.CONTAINERS[].volumeMounts[].name": "own",
    "spec.CONTAINERS[].env[].valueFrom.fileKeyRef.volumeName": "own",
    "spec.CONTAINERS[].env[].valueFrom.resourceFieldRef.containerName": "own",
    "spec.ephemeralContainers[].targetContainerName": "own",
    "spec.CONTAINERS[].PROBE.httpGet.httpHeaders[].name": "a header",
    "spec.volumes[].downwardAPI.items[].resourceFieldRef.containerName": "own",
    "spec.volumes[].projected.sources[].downwardAPI.items[].resourceFieldRef.containerName": "own",
    "spec.schedulingGates[].name": "own",
    "spec.hostname": "own",
    "spec.shareProcessNamespace": "a Linux namespace",
    "spec.hostAliases[].hostnames": "DNS",
    "spec.dnsConfig.options[].name": "DNS",
    "spec.securityContext.sysctls[].name": "a kernel setting",
    "spec.os.name": "an operating system",
    # -- of the host, which the tenant may name; policies of the host decide
    "spec.nodeName": "nodes have the same names",
    "spec.nodeSelector": "labels of nodes are the same",
    "spec.runtimeClassName": "the host's classes pass",
    "spec.schedulerName": "the host's schedulers pass",
    "spec.securityContext.windowsOptions.gmsaCredentialSpecName": "cluster-wide on the host",
    "spec.CONTAINERS[].securityContext.windowsOptions.gmsaCredentialSpecName": "cluster-wide",
    "spec.securityContext.windowsOptions.runAsUserName": "a user",
    "spec.CONTAINERS[].securityContext.windowsOptions.runAsUserName": "a user",
    "spec.volumes[].azureDisk.diskName": "the cloud's",
    "spec.volumes[].azureFile.shareName": "the cloud's",
    "spec.volumes[].flocker.datasetName": "a dataset",
    "spec.volumes[].iscsi.initiatorName": "a protocol's",
    "spec.volumes[].scaleIO.volumeName": "the storage's",
    "spec.volumes[].storageos.volumeName": "the storage's",
    "spec.volumes[].storageos.volumeNamespace": "the storage's",
    "spec.volumes[].vsphereVolume.storagePolicyName": "the storage's",
    "spec.volumes[].gcePersistentDisk.pdName": "the cloud's",
    "spec.volumes[].image.reference": "an image",
    # -- only with what is refused
    "spec.resources.claims": "spec.resourceClaims are refused",
    "spec.CONTAINERS[].resources.claims": "spec.resourceClaims are refused",
    "spec.volumes[].projected.sources[].clusterTrustBundle": "refused",
    "spec.volumes[].projected.sources[].podCertificate": "refused",
    # -- built anew: tests of their own
    "spec.serviceAccountName": "set by us",
    "spec.priorityClassName": "cleared, or that of the copied class",
    "spec.affinity": "mappers.pods.affinity",
    "spec.topologySpreadConstraints": "mappers.pods.affinity",
    "spec.volumes[].ephemeral": "becomes its claim",
    "spec.volumes[].projected.sources[].serviceAccountToken": "mappers.pods.tokens",
}
"""Fields that look like names but are no references, or are dealt with elsewhere; by prefix."""


@pytest.fixture(scope="module")
def schemas(shared_host: SharedHost) -> Object:
    """Give the schemas of the core group as the real API server serves them."""
    plane = shared_host.get()
    command = [str(plane.tools.kubectl), f"--kubeconfig={plane.kubeconfig}", "get", "--raw"]
    raw = subprocess.run([*command, "/openapi/v3/api/v1"], check=True, capture_output=True).stdout
    found: Object = json.loads(raw)["components"]["schemas"]
    return found


def _properties(schemas: Object, name: str) -> frozenset[str]:
    return frozenset(schemas[_CORE + name]["properties"])


def _resolved(schemas: Object, schema: Object) -> Object:
    """Follow references to other schemas."""
    while True:
        [inner] = schema.get("allOf") or [schema]
        if "$ref" not in inner:
            found: Object = inner
            return found
        schema = schemas[inner["$ref"].rpartition("/")[2]]


def _leaves(schemas: Object, schema: Object, path: str) -> Iterator[str]:
    """Give the paths of all fields below a schema that hold no further fields."""
    schema = _resolved(schemas, schema)
    if "items" in schema:
        yield from _leaves(schemas, schema["items"], f"{path}[]")
    elif "properties" in schema:
        for name, inner in schema["properties"].items():
            yield from _leaves(schemas, inner, f"{path}.{name}")
    else:
        yield path


@pytest.mark.parametrize(
    ("schema", "decided"),
    [
        ("PodSpec", fields.PASSED | fields.BUILT | fields.DROPPED | fields.REFUSED),
        ("Container", fields.CONTAINER),
        ("EphemeralContainer", fields.CONTAINER),
        ("Volume", fields.VOLUME),
        ("VolumeProjection", fields.PROJECTION | fields.PROJECTION_REFUSED),
        ("PodStatus", virtual.PASSED | virtual.BUILT | virtual.KEPT | virtual.DROPPED),
    ],
)
def test_every_field_is_decided(schemas: Object, schema: str, decided: frozenset[str]) -> None:
    """Each field of the server's schema is in our lists, and each of ours is the server's."""
    own = _properties(schemas, schema)
    targets = {"targetContainerName"} if schema == "Container" else set()
    assert own - decided == set(), "undecided: not copied until it is put into a list"
    assert decided - own - targets == set(), "not a field of this Kubernetes"


def _general(path: str) -> str:
    """Write the three lists of containers and the probes and hooks as one."""
    path = path.removesuffix("[]")
    path = re.sub(
        r"(?<=^spec\.)(initContainers|containers|ephemeralContainers)\[\]", "CONTAINERS[]", path
    )
    return re.sub(r"(?<=\[\]\.)(\w+Probe|lifecycle\.\w+)(?=\.)", "PROBE", path)


def test_every_name_is_translated_or_decided(schemas: Object) -> None:
    """Each field of a pod spec that may name an object is a row of the table, or is decided."""
    renamed = {_general(row.path) for row in references.REFERENCES}
    decided = {_general(path) for path in DECIDED}
    gone = fields.DROPPED | fields.REFUSED
    undecided = set()
    for path in _leaves(schemas, schemas[_CORE + "PodSpec"], "spec"):
        general = _general(path)
        last = general.rpartition(".")[2].removesuffix("[]")
        way = general.split(".")
        if way[1].removesuffix("[]") in gone or not _NAMES_SOMETHING.search(last):
            continue
        prefixes = {".".join(way[:end]) for end in range(1, len(way) + 1)}
        prefixes |= {prefix.removesuffix("[]") for prefix in prefixes}
        if general not in renamed and not prefixes & decided:
            undecided.add(general)
    assert sorted(undecided) == []


def test_every_row_is_a_field(schemas: Object) -> None:
    """Each row of the table of references is a field of the server's pods."""
    leaves = set(_leaves(schemas, schemas[_CORE + "PodSpec"], "spec"))
    assert {row.path for row in references.REFERENCES} - leaves == set()
