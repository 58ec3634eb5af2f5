"""Bindings: a pod is bound once, however long the news of it takes to come back."""

from contextlib import AsyncExitStack

from controlplane import ControlPlane
from controlplane.faults import Stage, Write, fault_proxy
from tests.integration.harness import Cluster, Tenant, boot_pair, cluster, pod
from tests.integration.pod_steps import in_phase


async def test_a_binding_that_was_accepted_is_not_sent_again(host: Cluster) -> None:
    """A pod that runs on the host is told to run while no watch has said yet that it is bound."""
    async with AsyncExitStack() as stack:
        plane = await stack.enter_async_context(ControlPlane.virtual())
        virtual = await stack.enter_async_context(cluster(plane))
        proxy = await stack.enter_async_context(fault_proxy(plane))
        tenant = Tenant("bound", flags=(f"--kube-config={proxy.kubeconfig}",))
        pair = await stack.enter_async_context(boot_pair(host, tenant, virtual))

        async def go_silent(stage: Stage, write: Write) -> None:
            if stage == "received" and write.path.endswith("/web/binding"):
                proxy.stall({"WATCH"}, "/pods")

        proxy.hook = go_silent
        await virtual.create(pod("web", "default"))
        await in_phase(pair, "web", "default")
        proxy.heal()
        bindings = [each.status for each in proxy.writes if each.path.endswith("/web/binding")]
        assert bindings == [201]
