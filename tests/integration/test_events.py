"""Events: what the host says of the copies, told to the tenant about its own objects."""

import asyncio
import uuid
from datetime import UTC, datetime

import orjson

from tests.integration.harness import Object, Pair, eventually, named, pod, service
from tests.integration.pod_steps import in_phase


def _event(involved: Object, kind: str, message: str, **fields: object) -> Object:
    """Return an event as the host's components write it, about a host object."""
    metadata = involved["metadata"]
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    reference = {
        "apiVersion": "v1",
        "kind": kind,
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "uid": metadata["uid"],
        "resourceVersion": metadata["resourceVersion"],
    }
    default = {
        "involvedObject": reference,
        "reason": "Testing",
        "message": message,
        "type": "Warning",
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": "kubelet", "host": "node-0"},
    }
    name = f"{metadata['name']}.{uuid.uuid4().hex[:16]}"
    return named("Event", name, metadata["namespace"], **(default | fields))


async def _shown(pair: Pair, namespace: str, name: str, count: int = 1) -> Object:
    """Wait for the tenant's copy of a test event."""

    async def check() -> Object:
        events = await pair.virtual.events(namespace, name, "Testing")
        assert [each["count"] for each in events] == [count]
        return events[0]

    return await eventually(check)


async def _copy(pair: Pair, resource: str, name: str, namespace: str) -> Object:
    return await eventually(lambda: pair.copy(resource, name, namespace))


async def test_events_about_copies_are_shown_on_the_tenants_objects(
    pair: Pair, namespace: str
) -> None:
    """Pods, services and claims: involved object, message and counts are in the tenant's terms."""
    home = pair.names.host_namespace
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claim |= {"storageClassName": "none"}
    virtual = {
        "Pod": await pair.virtual.create(pod("web", namespace)),
        "Service": await pair.virtual.create(service("front", namespace)),
        "PersistentVolumeClaim": await pair.virtual.create(
            named("PersistentVolumeClaim", "disk", namespace, spec=claim)
        ),
    }
    plurals = {
        "Pod": "pods",
        "Service": "services",
        "PersistentVolumeClaim": "persistentvolumeclaims",
    }
    for kind, mine in virtual.items():
        name = mine["metadata"]["name"]
        resource = plurals[kind]
        copy = await _copy(pair, resource, name, namespace)
        host = copy["metadata"]
        message = (
            f"trouble with {home}/{host['name']}, that is {host['name']}_{home}({host['uid']})"
        )
        made = await pair.host.create(_event(copy, kind, message))
        event = await _shown(pair, namespace, name)
        reference = event["involvedObject"]
        assert (reference["kind"], reference["name"]) == (kind, name)
        assert (reference["namespace"], reference["uid"]) == (namespace, mine["metadata"]["uid"])
        text = orjson.dumps(event).decode()
        for secret in (host["name"], home, host["uid"], pair.names.tenant + '"'):
            assert secret not in event["message"], event["message"]
        assert home not in text.replace(f'"{pair.names.tenant}"', "")
        assert name in event["message"]
        assert event["metadata"]["name"].startswith(f"{name}.")
        assert (event["type"], event["source"]["component"]) == ("Warning", "kubelet")
        more = {"count": 7, "lastTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        await pair.host.patch("events", made["metadata"]["name"], home, more)
        again = await _shown(pair, namespace, name, count=7)
        assert again["metadata"]["uid"] == event["metadata"]["uid"]


async def test_the_schedulers_own_events_arrive(pair: Pair, namespace: str) -> None:
    """Events of the newer form, with a reporting component, cross as well: `Scheduled`."""
    await pair.virtual.create(pod("web", namespace))
    await in_phase(pair, "web", namespace)

    async def check() -> Object:
        found = await pair.virtual.events(namespace, "web", "Scheduled")
        assert found
        return found[0]

    event = await eventually(check)
    assert event["message"].startswith(f"Successfully assigned {namespace}/web to node-")
    assert event["reportingComponent"] == "default-scheduler"
    assert pair.names.host_namespace not in orjson.dumps(event["message"]).decode()


async def test_events_of_others_are_not_shown_and_none_goes_to_the_host(
    pair: Pair, namespace: str
) -> None:
    """Neither foreign objects, nor a predecessor of a copy, nor the tenant's own events cross."""
    home = pair.names.host_namespace
    await pair.virtual.create(service("front", namespace))
    copy = await eventually(lambda: pair.copy("services", "front", namespace))
    foreign = await pair.host.create(service(f"other-x-{namespace}-x-{pair.names.tenant}", home))
    stale = orjson.loads(orjson.dumps(copy))
    stale["metadata"]["uid"] = str(uuid.uuid4())
    for involved in (foreign, stale):
        await pair.host.create(_event(involved, "Service", "nothing to see", reason="Foreign"))
    mine = await pair.virtual.get("services", "front", namespace)
    await pair.virtual.create(_event(mine, "Service", "my own", reason="Mine"))
    await pair.host.create(_event(copy, "Service", "the last"))
    await _shown(pair, namespace, "front")
    await asyncio.sleep(0.5)
    shown = await pair.virtual.list("events", namespace, fields="reason=Foreign")
    assert shown == []
    for name in ("front", copy["metadata"]["name"]):
        assert await pair.host.events(home, name, "Mine") == []
    assert len(await pair.host.events(home, copy["metadata"]["name"], "Testing")) == 1
    await pair.host.delete("services", foreign["metadata"]["name"], home)
