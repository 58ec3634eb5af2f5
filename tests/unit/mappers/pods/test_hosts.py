"""The init container that writes /etc/hosts of pods with a subdomain."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mappers.pods import hosts
from tests.unit.mappers.pods.support import pod, wanted

SPEC = {"subdomain": "db", "hostname": "web-0"}


@pytest.mark.parametrize(
    ("spec", "annotations", "settings"),
    [
        ({"hostname": "web-0"}, {}, {}),
        (SPEC, {}, {"override_hosts": False}),
        (SPEC, {hosts.DISABLED: "true"}, {}),
        ({**SPEC, "hostNetwork": True}, {}, {}),
        ({**SPEC, "os": {"name": "windows"}}, {}, {}),
        ({**SPEC, "initContainers": [{"name": hosts.CONTAINER_NAME}]}, {}, {}),
    ],
    ids=["no subdomain", "flag", "annotation", "host network", "windows", "already there"],
)
def test_pod_is_left_alone(spec: Any, annotations: Any, settings: Any) -> None:
    """Without need, or when it is turned off, nothing is added; the subdomain never crosses."""
    made = wanted(pod(spec, annotations=annotations), **settings)
    assert hosts.REWRITTEN not in made["metadata"]["annotations"]
    assert len(made["spec"].get("initContainers", ())) == len(spec.get("initContainers", ()))
    assert "volumes" not in made["spec"]
    assert "subdomain" not in made["spec"]


@pytest.mark.parametrize(
    ("registry", "image"),
    [("", "busybox:1"), ("reg.io", "reg.io/busybox:1"), ("reg.io/", "reg.io/busybox:1")],
)
def test_hosts_are_rewritten(registry: str, image: str) -> None:
    """The init container comes first, and all others mount the file it writes."""
    spec = {**SPEC, "initContainers": [{"name": "own"}]}
    settings: Any = {
        "default_image_registry": registry,
        "override_hosts_container_image": "busybox:1",
    }
    made = wanted(pod(spec), **settings)
    first, own = made["spec"]["initContainers"]
    assert first["name"] == hosts.CONTAINER_NAME
    assert first["image"] == image
    assert first["resources"]["limits"] == {"cpu": "30m", "memory": "64Mi"}
    mount = {"name": hosts.VOLUME_NAME, "mountPath": "/etc/hosts", "subPath": "hosts"}
    assert own["volumeMounts"] == [mount]
    assert made["spec"]["containers"][0]["volumeMounts"] == [mount]
    assert made["spec"]["volumes"][0] == {"name": hosts.VOLUME_NAME, "emptyDir": {}}
    assert made["metadata"]["annotations"][hosts.REWRITTEN] == "true"


def test_own_hosts_file_is_kept() -> None:
    """A container that mounts /etc/hosts itself keeps its own: two mounts there are invalid."""
    mounts = [{"name": "v", "mountPath": "/etc/hosts"}]
    made = wanted(pod({**SPEC, "containers": [{"name": "m", "volumeMounts": mounts}]}))
    assert made["spec"]["containers"][0]["volumeMounts"] == mounts


@pytest.mark.parametrize(
    ("pod_security", "expected"),
    [
        ({}, (1001, 1001)),
        ({"runAsUser": 7, "runAsGroup": 8}, (7, 8)),
        ({"runAsUser": 0, "runAsGroup": 0}, (1001, 1001)),
    ],
    ids=["default", "the pod's", "never root"],
)
def test_init_container_is_restricted(pod_security: Any, expected: tuple[int, int]) -> None:
    """The init container passes Pod Security ``restricted`` whatever the pod asks for."""
    made = wanted(pod({**SPEC, "securityContext": pod_security}))
    security = made["spec"]["initContainers"][0]["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"]) == expected
    assert security["runAsNonRoot"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}


def test_command_rewrites_the_own_line_only(tmp_path: Path) -> None:
    """The command puts the full name before the short one, for IPv4 and IPv6; others stay."""
    source, target = tmp_path / "hosts", tmp_path / "result"
    source.write_text("127.0.0.1\tlocalhost\n10.1.2.3\tweb-0\nfd00::3\tweb-0\n1.1.1.1\tweb-01\n")
    command = wanted(pod(SPEC))["spec"]["initContainers"][0]["args"][1]
    command = command.replace("/hosts/hosts", str(target)).replace("/etc/hosts", str(source))
    subprocess.run(["sh", "-c", command], check=True)
    full = "web-0.db.shop.svc.cluster.local web-0"
    assert re.split(r"\n", target.read_text()) == [
        "127.0.0.1\tlocalhost",
        f"10.1.2.3\t{full}",
        f"fd00::3\t{full}",
        "1.1.1.1\tweb-01",
        "",
    ]
