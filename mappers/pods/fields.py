"""Which fields of a pod spec go to the host, at the levels of pod, container and volume.

Invariant: a field that is named nowhere here does not cross. A new field of a newer Kubernetes is
decided on first (a test walks the real server's schema and fails on an undecided one).

Source: Kubernetes API reference, Pod v1 (1.36).
"""

from __future__ import annotations

from typing import Final

PASSED: Final = frozenset(
    {
        "activeDeadlineSeconds",
        "dnsConfig",
        "dnsPolicy",
        "hostAliases",
        "hostIPC",
        "hostNetwork",
        "hostPID",
        "hostUsers",
        "hostname",
        "hostnameOverride",
        "imagePullSecrets",
        "nodeName",
        "nodeSelector",
        "os",
        "overhead",
        "readinessGates",
        "resources",
        "restartPolicy",
        "runtimeClassName",
        "schedulerName",
        "schedulingGates",
        "securityContext",
        "setHostnameAsFQDN",
        "shareProcessNamespace",
        "terminationGracePeriodSeconds",
        "tolerations",
    }
)
"""Fields of a pod spec that cross as they are, or after a change made in place."""

BUILT: Final = frozenset(
    {
        "affinity",
        "automountServiceAccountToken",
        "containers",
        "enableServiceLinks",
        "ephemeralContainers",
        "initContainers",
        "preemptionPolicy",
        "priorityClassName",
        "serviceAccountName",
        "topologySpreadConstraints",
        "volumes",
    }
)
"""Fields of a pod spec that are built anew in host terms."""

DROPPED: Final = frozenset({"priority", "schedulingGroup", "serviceAccount", "subdomain"})
"""Fields of a pod spec that never cross: the host computes them, or they name tenant objects."""

REFUSED: Final = frozenset({"resourceClaims"})
"""Fields of a pod spec whose presence refuses the pod: they would show the host's identity."""

CONTAINER: Final = frozenset(
    {
        "args",
        "command",
        "env",
        "envFrom",
        "image",
        "imagePullPolicy",
        "lifecycle",
        "livenessProbe",
        "name",
        "ports",
        "readinessProbe",
        "resizePolicy",
        "resources",
        "restartPolicy",
        "restartPolicyRules",
        "securityContext",
        "startupProbe",
        "stdin",
        "stdinOnce",
        "targetContainerName",
        "terminationMessagePath",
        "terminationMessagePolicy",
        "tty",
        "volumeDevices",
        "volumeMounts",
        "workingDir",
    }
)
"""Fields of a container (init and ephemeral ones too) that cross."""

CONTAINER_LISTS: Final = ("initContainers", "containers", "ephemeralContainers")
"""The three lists of containers of a pod spec."""

VOLUME: Final = frozenset(
    {
        "awsElasticBlockStore",
        "azureDisk",
        "azureFile",
        "cephfs",
        "cinder",
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "fc",
        "flexVolume",
        "flocker",
        "gcePersistentDisk",
        "gitRepo",
        "glusterfs",
        "hostPath",
        "image",
        "iscsi",
        "name",
        "nfs",
        "persistentVolumeClaim",
        "photonPersistentDisk",
        "portworxVolume",
        "projected",
        "quobyte",
        "rbd",
        "scaleIO",
        "secret",
        "storageos",
        "vsphereVolume",
    }
)
"""Volume sources that cross; a volume of another kind refuses the pod (without its source it
would silently become an ``emptyDir``)."""

PROJECTION: Final = frozenset({"configMap", "downwardAPI", "secret", "serviceAccountToken"})
"""Sources of a projected volume that cross; another one refuses the pod."""

PROJECTION_REFUSED: Final = frozenset({"clusterTrustBundle", "podCertificate"})
"""Known sources of a projected volume that would show the host's identity."""
