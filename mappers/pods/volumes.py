"""Volumes of a pod in host terms.

Names of config maps, secrets, claims and drivers' secrets are translated before, by the table of
:mod:`mappers.pods.references`. Here: what is not a name.

Invariant: a volume whose source isn't known here refuses the pod; without its source the host
would make an ``emptyDir`` of it.

Source: Kubernetes API reference, Volume; vcluster v0.16.4 ``pods/translate``.
"""

from __future__ import annotations

from mappers.pods import env, fields, references, tokens
from syncer.objects import Object
from syncer.types import Context, Refused


def refusal(spec: Object) -> Refused | None:
    """Say why a pod with these volumes can't be on the host, or ``None``.

    Args:
        spec: the virtual pod's spec.
    """
    for volume in spec.get("volumes") or ():
        if unknown := volume.keys() - fields.VOLUME:
            return _refused(volume, min(unknown))
        projected = volume.get("projected")
        for source in (projected or {}).get("sources") or ():
            if unknown := source.keys() - fields.PROJECTION:
                return _refused(volume, f"projected {min(unknown)}")
    return None


def _refused(volume: Object, source: str) -> Refused:
    return Refused(
        f"volume {volume['name']!r}: {source} would be the host cluster's, not this one's; "
        "use a Secret or ConfigMap"
    )


def host_volumes(volumes: list[Object], virtual: Object, ctx: Context) -> list[Object]:
    """Translate a pod's volumes.

    Args:
        volumes: the pod's volumes, names already translated; not changed.
        virtual: the virtual pod.
        ctx: names and settings.

    Returns:
        A new list.
    """
    return [_host_volume(volume, virtual, ctx) for volume in volumes]


def _host_volume(volume: Object, virtual: Object, ctx: Context) -> Object:
    if projected := volume.get("projected"):
        sources = [
            _host_source(source, volume["name"], virtual, ctx)
            for source in projected.get("sources") or ()
        ]
        return {**volume, "projected": {**projected, "sources": sources}}
    if "ephemeral" in volume:
        metadata = virtual["metadata"]
        claim = references.claim_name(metadata["name"], volume["name"])
        name = ctx.names.host_name(claim, metadata["namespace"])
        return {"name": volume["name"], "persistentVolumeClaim": {"claimName": name}}
    if downward := volume.get("downwardAPI"):
        items = env.downward_items(downward.get("items") or (), ctx.names)
        return {**volume, "downwardAPI": {**downward, "items": items}}
    if image := volume.get("image"):
        reference = image.get("reference")
        mapped = ctx.settings.translate_image.get(reference, reference)
        return {**volume, "image": {**image, "reference": mapped}} if reference else volume
    return volume


def _host_source(source: Object, volume: str, virtual: Object, ctx: Context) -> Object:
    """Translate one source of a projected volume."""
    if token := source.get("serviceAccountToken"):
        in_secret = ctx.settings.service_account_token_secrets
        return tokens.host_source(virtual, volume, token, ctx.names, secret=in_secret)
    if downward := source.get("downwardAPI"):
        items = env.downward_items(downward.get("items") or (), ctx.names)
        return {"downwardAPI": {**downward, "items": items}}
    return source
