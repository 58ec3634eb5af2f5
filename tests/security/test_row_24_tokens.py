"""Row 24: service-account tokens are bound, short, the virtual cluster's own, and in Secrets."""

import time
from base64 import b64decode, urlsafe_b64decode

import orjson

from tests.integration.harness import Cluster, Object, Pair, eventually, gone, pod
from tests.integration.pod_steps import in_phase


def _claims(token: str) -> Object:
    payload = token.split(".")[1]
    found: Object = orjson.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found


async def _accepted(cluster: Cluster, token: str, audience: str) -> bool:
    """Ask an API server whether it takes a token for an audience."""
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    }
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    answer = await cluster.request("POST", path, body=review)
    return bool(answer["status"].get("authenticated"))


async def test_tokens_are_bound_short_and_hidden(pair: Pair, namespace: str) -> None:
    """Audience and life are what was asked for; the host refuses it; it dies with the pod."""
    source = {"serviceAccountToken": {"path": "t", "audience": "vault", "expirationSeconds": 900}}
    volume = {"name": "token", "projected": {"sources": [source]}}
    await pair.virtual.create(pod("web", namespace, volumes=[volume]))
    virtual = await in_phase(pair, "web", namespace)
    copy = await pair.copy("pods", "web", namespace)
    name = pair.host_name("web-sa-token", namespace)
    kept = await pair.host.get("secrets", name, pair.names.host_namespace)
    tokens = [b64decode(value).decode() for value in kept["data"].values()]
    assert len(tokens) == 2
    text = orjson.dumps(copy).decode()
    for token in tokens:
        claims = _claims(token)
        assert claims["kubernetes.io"]["pod"]["uid"] == virtual["metadata"]["uid"]
        assert claims["exp"] - claims["iat"] <= 3600
        assert claims["exp"] > time.time()
        assert token not in text
        audience = claims["aud"][0]
        assert not await _accepted(pair.host, token, audience)
    [asked] = [_claims(token) for token in tokens if _claims(token)["aud"] == ["vault"]]
    assert asked["exp"] - asked["iat"] <= 900
    assert "serviceAccountToken" not in text
    kept_back, asked_about = sorted(tokens, key=lambda token: _claims(token)["aud"] == ["vault"])
    assert await _accepted(pair.virtual, asked_about, "vault")
    await pair.virtual.delete("pods", "web", namespace, grace=0)
    await gone(lambda: pair.virtual.find("pods", "web", namespace))
    await gone(lambda: pair.host.find("secrets", name, pair.names.host_namespace))

    async def dead() -> None:
        # Not the one asked about above: the API server remembers a good answer for 10 s.
        assert not await _accepted(pair.virtual, kept_back, _claims(kept_back)["aud"][0])

    await eventually(dead)
