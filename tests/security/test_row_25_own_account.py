"""Row 25: no pod of a tenant's gets the syncer's own account, or a Secret that is not its own."""

from tests.integration.harness import Object, Pair, eventually, named, pod, secret
from tests.integration.pod_steps import container

_OWN = "vc-syncer"


async def test_host_accounts_and_secrets_are_out_of_reach(pair: Pair, namespace: str) -> None:
    """Names of the host's account and Secrets are translated, in each place that takes one."""
    home = pair.names.host_namespace
    kubeconfig = f"vc-{pair.names.tenant}"
    await pair.host.apply(named("ServiceAccount", _OWN, home))
    await pair.host.apply(secret(kubeconfig, home, {"config": "admin"}))
    await pair.virtual.create(named("ServiceAccount", _OWN, namespace))
    env = [
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": kubeconfig, "key": "config"}}},
    ]
    main = {"name": "main", "image": "nginx", "env": env}
    main["envFrom"] = [{"secretRef": {"name": kubeconfig}}]
    volumes = [
        {"name": "a", "secret": {"secretName": kubeconfig}},
        {"name": "b", "projected": {"sources": [{"secret": {"name": kubeconfig}}]}},
        {"name": "c", "csi": {"driver": "d", "nodePublishSecretRef": {"name": kubeconfig}}},
    ]
    asked = pod(
        "thief",
        namespace,
        containers=[main],
        volumes=volumes,
        serviceAccountName=_OWN,
        automountServiceAccountToken=True,
        imagePullSecrets=[{"name": kubeconfig}],
    )
    await pair.virtual.create(asked)
    copy = await eventually(lambda: pair.copy("pods", "thief", namespace))
    spec = copy["spec"]
    assert spec["serviceAccountName"] == "default"
    assert f"'{kubeconfig}'" not in str(spec)
    assert container(copy, "main")["envFrom"] == [
        {"secretRef": {"name": pair.host_name(kubeconfig, namespace)}}
    ]
    await pair.host.delete("secrets", kubeconfig, home)


async def _copy(pair: Pair, name: str, namespace: str) -> Object:
    return await eventually(lambda: pair.copy("pods", name, namespace))


async def test_no_host_pod_mounts_an_account_of_the_hosts(pair: Pair, namespace: str) -> None:
    """Automounting is off on every copy, whatever pod or account say; so are service links."""
    for name, automount in (("unset", None), ("on", True), ("off", False)):
        asked = pod(name, namespace, enableServiceLinks=True)
        if automount is not None:
            asked["spec"]["automountServiceAccountToken"] = automount
        await pair.virtual.create(asked)
    for name in ("unset", "on", "off"):
        copy = await _copy(pair, name, namespace)
        assert copy["spec"]["automountServiceAccountToken"] is False
        assert copy["spec"]["enableServiceLinks"] is False
        assert "serviceAccountToken" not in str(copy["spec"])
