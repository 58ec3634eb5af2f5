"""Service-account tokens of pods: asked of the virtual API server, kept where the pod mounts them.

The pure part (which tokens a pod wants, the Secret that holds them) is in
:mod:`mappers.pods.tokens`; this is its I/O: TokenRequest, the Secret before the pod, and renewal
at 80 % of a token's own life. The Secret is removed by the engine, as the pod's declared child.

What it never does: ask for a longer life than the pod asked for, or keep a token in memory.

Source: https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-request-v1/
"""

from __future__ import annotations

import time
from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import structlog

from mappers.pods import tokens
from syncer import ownership
from syncer.engine.patch import make_patch
from syncer.engine.queue import Level, WorkQueue
from syncer.engine.reconcile import NotConfirmedError, NotReadyError
from syncer.engine.view import Item, View
from syncer.engine.writer import Writer
from syncer.kube.errors import ApiError
from syncer.naming import Names
from syncer.objects import Key, Object, Resource, Side, key_of

PODS: Final = Resource("", "v1", "pods", "Pod")
SECRETS: Final = Resource("", "v1", "secrets", "Secret")
SERVICE_ACCOUNTS: Final = Resource("", "v1", "serviceaccounts", "ServiceAccount")

LOOK_SECONDS: Final = 3600.0
"""Looked at so often at least: what waits in the queue for pods long gone is bounded by it."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("tokens")


class _Due(NamedTuple):
    """When the tokens of a pod (by UID) are renewed; in which Secret they are, if in one, whose."""

    uid: str
    time: float
    secret: Key | None
    owner: Object | None


class PodTokens:
    """Gives pods their tokens; the engine calls it around a pod's host copy."""

    def __init__(
        self,
        *,
        names: Names,
        in_secrets: bool,
        cluster_domain: str,
        view: View,
        queue: WorkQueue[Item],
        writers: Mapping[Side, Writer],
        now: Callable[[], float] = time.time,
    ) -> None:
        """Join the parts.

        Args:
            names: the tenant's names.
            in_secrets: keep tokens in a Secret; else in annotations of the host pod.
            cluster_domain: DNS domain of the virtual cluster, for default audiences.
            view: the stores.
            queue: where renewals are queued.
            writers: by side.
            now: wall clock, seconds since the epoch: tokens' times are absolute.
        """
        self._names = names
        self._in_secrets = in_secrets
        self._cluster_domain = cluster_domain
        self._view = view
        self._queue = queue
        self._writers = writers
        self._now = now
        self._due: dict[Item, _Due] = {}

    async def before_create(self, virtual: Object, wanted: Object) -> Object:
        """Make the tokens that a pod mounts, before the pod: kubelets don't wait for them.

        Args:
            virtual: the virtual pod.
            wanted: the host pod about to be created.

        Returns:
            The host pod to create; with tokens in its annotations where they are kept there.

        Raises:
            ApiError, TransportError, GateClosedError, NotReadyError, NotConfirmedError: the pod
                can't be made yet.
        """
        needed = tokens.wanted_tokens(virtual, None, self._cluster_domain)
        if not needed:
            return wanted
        if not self._in_secrets:
            return tokens.with_token_annotations(wanted, await self._request(virtual, needed))
        secret = self._secret(virtual, None)
        if secret is None or self._secret_due(virtual, secret, needed) <= self._now():
            await self._put(virtual, None, secret, await self._request(virtual, needed))
        return wanted

    async def attend(self, virtual: Object, host: Object, item: Item) -> None:
        """Renew the tokens of a pod when they are due, and queue the next renewal.

        Args:
            virtual: the virtual pod.
            host: its host copy; its volumes say where its tokens are read from.
            item: its queue item.

        Raises:
            ApiError, TransportError, GateClosedError, NotReadyError, NotConfirmedError.
        """
        uid = virtual["metadata"]["uid"]
        known, owner = self._due.get(item), self._view.owner
        same = known is not None and (known.uid, known.owner) == (uid, owner)
        if known is not None and same and self._now() < known.time:
            secrets = self._view.store(Side.HOST, SECRETS.full_name)
            if known.secret is None or known.secret in secrets:
                self._come_back(item, known.time)
                return
        needed = tokens.wanted_tokens(virtual, host, self._cluster_domain)
        if not needed:
            return
        secret = None
        if tokens.mounts_annotations(host):
            due = await self._keep_annotations(virtual, host, needed)
        else:
            due = await self._keep_secret(virtual, host, needed)
            secret = tokens.secret_key(virtual, self._names)
        self._forget_gone()
        self._due[item] = _Due(uid, due, secret, owner)
        self._come_back(item, due)

    def _come_back(self, item: Item, due: float) -> None:
        """Queue the next look at a pod.

        An item has one delay: a retry's, which is sooner, takes the place of a renewal's. So every
        pass asks anew, unless something is going to come.
        """
        if not self._queue.is_delayed(item):
            seconds = min(max(due - self._now(), 1.0), LOOK_SECONDS)
            self._queue.add_after(item, seconds, level=Level.LOW)

    async def _keep_secret(
        self, virtual: Object, host: Object, needed: list[tokens.TokenWanted]
    ) -> float:
        """Renew what is due in the Secret.

        Returns:
            When it is due next, in seconds since the epoch.
        """
        secret = self._secret(virtual, host)
        due = self._secret_due(virtual, secret, needed) if secret else 0.0
        if secret is not None and due > self._now():
            await self._bring(secret, self._owned(secret))
            return due
        fresh = await self._request(virtual, needed)
        await self._put(virtual, host, secret, fresh)
        log.info("tokens renewed", pod=str(key_of(virtual)))
        return min(map(tokens.renew_at, fresh.values()))

    async def _keep_annotations(
        self, virtual: Object, host: Object, needed: list[tokens.TokenWanted]
    ) -> float:
        """Renew what is due in the annotations; returns as :meth:`_keep_secret`."""
        present = tokens.annotated_tokens(host, needed)
        due = min(map(tokens.due_at, present.values()), default=0.0)
        if len(present) == len(needed) and due > self._now():
            return due
        fresh = await self._request(virtual, needed)
        if patch := make_patch(host, tokens.with_token_annotations(host, fresh)):
            await self._writers[Side.HOST].patch(PODS, key_of(host), patch)
        return min(map(tokens.renew_at, fresh.values()))

    # -- the Secret ------------------------------------------------------------------------------

    def _secret(self, virtual: Object, host: Object | None) -> Object | None:
        """Give the pod's token Secret when it is one of ours."""
        key = tokens.secret_key(virtual, self._names)
        secret = self._view.store(Side.HOST, SECRETS.full_name).get(key)
        return secret if secret is not None and self._is_ours(secret, virtual, host) else None

    def _is_ours(self, secret: Object, virtual: Object, host: Object | None) -> bool:
        """Say whether a Secret is this pod's, also when vcluster made it.

        That one has no label; the host pod owns it or, as long as there was none, our Service.
        """
        metadata = secret["metadata"]
        child_of = ownership.annotation(secret, ownership.CHILD_OF)
        if child_of is not None:
            labels = metadata.get("labels") or {}
            ours = labels.get(ownership.MANAGED_BY) == self._names.marker
            return ours and child_of == f"pods {key_of(virtual)}"
        owners = {owner.get("uid") for owner in metadata.get("ownerReferences") or ()}
        if host is not None and host["metadata"]["uid"] in owners:
            return True
        marked = ownership.annotation(secret, ownership.SKIP_BACKSYNC) == "true"
        return marked and self._view.owner is not None and self._view.owner["uid"] in owners

    def _secret_due(
        self, virtual: Object, secret: Object, needed: list[tokens.TokenWanted]
    ) -> float:
        """Say when a Secret's tokens are due; 0 when it lacks one or is a predecessor's."""
        if ownership.virtual_uid(secret) != virtual["metadata"]["uid"]:
            return 0.0
        data = secret.get("data") or {}
        if any(want.key not in data for want in needed):
            return 0.0
        return min(
            tokens.due_at(b64decode(data[want.key]).decode(errors="replace")) for want in needed
        )

    def _owned(self, secret: Object) -> Object:
        """Give a Secret with the present owner, so that none of the past takes it along."""
        if self._view.owner is None:
            return secret
        metadata = secret["metadata"]
        owners = ownership.with_owner(metadata.get("ownerReferences") or (), self._view.owner)
        return {**secret, "metadata": {**metadata, "ownerReferences": owners}}

    async def _put(
        self,
        virtual: Object,
        host: Object | None,
        secret: Object | None,
        fresh: Mapping[str, str],
    ) -> None:
        """Create the Secret, or bring the one that is there up to date.

        Raises:
            NotReadyError: an object that is not ours has the Secret's name.
        """
        wanted = tokens.token_secret(virtual, fresh, self._names)
        if self._view.owner is not None:
            wanted["metadata"]["ownerReferences"] = [self._view.owner]
        writer = self._writers[Side.HOST]
        if secret is None:
            try:
                await writer.create(SECRETS, wanted)
                return
            except ApiError as error:
                if not error.already_exists:
                    raise
            secret = await writer.get(SECRETS, key_of(wanted))
            if secret is None:
                raise NotConfirmedError("the Secret in the way has just gone")
            if not self._is_ours(secret, virtual, host):
                raise NotReadyError(
                    f"the Secret for the tokens of pod {key_of(virtual)} can't be made: its name "
                    "is taken on the host; rename the pod, or the Secret "
                    f"{virtual['metadata']['name']}-sa-token"
                )
        owned = self._owned(secret)
        target = {
            **owned,
            "data": wanted["data"],
            "metadata": {
                **owned["metadata"],
                "labels": {
                    **(secret["metadata"].get("labels") or {}),
                    **wanted["metadata"]["labels"],
                },
                "annotations": {
                    **(secret["metadata"].get("annotations") or {}),
                    **wanted["metadata"]["annotations"],
                },
            },
        }
        await self._bring(secret, target)

    async def _bring(self, secret: Object, target: Object) -> None:
        """Patch the Secret, if it differs.

        Raises:
            NotConfirmedError: it has gone meanwhile.
        """
        patch = make_patch(secret, target)
        if patch is None:
            return
        try:
            await self._writers[Side.HOST].patch(SECRETS, key_of(secret), patch)
        except ApiError as error:
            if error.not_found:
                raise NotConfirmedError("the Secret has gone meanwhile") from error
            raise

    # -- TokenRequest ------------------------------------------------------------------------------

    async def _request(self, virtual: Object, needed: list[tokens.TokenWanted]) -> dict[str, str]:
        """Ask the virtual API server for the tokens, bound to the pod.

        Raises:
            NotReadyError: the service account isn't there.
            NotConfirmedError: the pod has gone meanwhile.
        """
        key = tokens.service_account_key(virtual)
        fresh: dict[str, str] = {}
        for want in needed:
            try:
                answer = await self._writers[Side.VIRTUAL].post(
                    SERVICE_ACCOUNTS, key, "token", tokens.token_request(virtual, want)
                )
            except ApiError as error:
                if error.not_found and error.details.get("kind") == "serviceaccounts":
                    raise NotReadyError(f"service account {key} does not exist") from error
                if error.not_found or error.conflict:
                    raise NotConfirmedError("the pod has changed meanwhile") from error
                raise
            fresh[want.key] = answer["status"]["token"]
        return fresh

    def _forget_gone(self) -> None:
        """Bound the memory: drop what is known of pods that are no more."""
        pods = self._view.store(Side.VIRTUAL, PODS.full_name)
        if len(self._due) > 2 * len(pods) + 64:
            self._due = {item: due for item, due in self._due.items() if item.key in pods}
