"""What the mapper makes is what a real API server takes, and leaves nothing to write."""

from __future__ import annotations

import json
import subprocess
import uuid

import pytest

from controlplane import ControlPlane
from syncer import ownership
from syncer.naming import Names
from syncer.objects import Object
from tests.integration.shared_host import SharedHost
from tests.unit.mappers.pods.support import copy, pod, updated, wanted

NAMES = Names("vc", "default")
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_TERM = {
    "topologyKey": "kubernetes.io/hostname",
    "labelSelector": {"matchLabels": {"app": "web"}},
    "matchLabelKeys": ["app"],
    "namespaces": ["other"],
    "namespaceSelector": {},
}
_MOUNTED = [
    {"name": "config", "configMap": {"name": "settings"}},
    {"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}},
    {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
    {"name": "logs", "hostPath": {"path": "/var/log"}},
    {
        "name": "api",
        "projected": {
            "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"secret": {"name": "more"}},
                {
                    "downwardAPI": {
                        "items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
                    }
                },
            ]
        },
    },
]
SPECS: dict[str, Object] = {
    "plain": {},
    "cluster dns": {"dnsPolicy": "ClusterFirst", "dnsConfig": {"nameservers": ["1.1.1.1"]}},
    "subdomain": {"subdomain": "db", "dnsPolicy": "ClusterFirst"},
    "volumes": {
        "volumes": _MOUNTED,
        "containers": [
            {
                "name": "main",
                "image": "nginx",
                "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "envFrom": [{"secretRef": {"name": "s"}}],
                "volumeMounts": [
                    {"name": v["name"], "mountPath": f"/{i}"} for i, v in enumerate(_MOUNTED)
                ],
            }
        ],
    },
    "affinity": {
        "affinity": {
            "podAntiAffinity": {REQUIRED: [_TERM]},
            "podAffinity": {REQUIRED: [_TERM]},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app": "web"}},
                "matchLabelKeys": ["app"],
            }
        ],
    },
    "gated": {
        "schedulingGates": [{"name": "tenant.io/wait"}],
        "readinessGates": [{"conditionType": "tenant.io/ready"}],
        "priorityClassName": "tenants-own",
        "preemptionPolicy": "Never",
        "activeDeadlineSeconds": 60,
    },
}


def _kubectl(plane: ControlPlane, *arguments: str, given: Object | None = None) -> Object:
    """Run kubectl as admin; gives the object it prints."""
    command = [str(plane.tools.kubectl), f"--kubeconfig={plane.kubeconfig}", *arguments]
    text = json.dumps(given) if given is not None else None
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: Object = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_host_takes_the_pod_and_nothing_is_left_to_write(
    shared_host: SharedHost, spec: Object
) -> None:
    """A real host stores what is made, and with its defaults in it there is nothing to update."""
    host = shared_host.get()
    virtual = pod(spec, name=f"web-{uuid.uuid4().hex[:8]}")
    made = ownership.stamp(copy(wanted(virtual)), virtual, NAMES, None)
    stored = _kubectl(host, "create", "--dry-run=server", "-o", "json", "-f", "-", given=made)
    assert updated(virtual, copy(stored)) == stored
