"""Kubeconfig files: one cluster, one user with a client certificate, everything inline."""

import base64
import os
from pathlib import Path

import orjson

from controlplane.certificates import Pair


def write_kubeconfig(path: Path, server: str, authority: Path | None, user: Pair | None) -> Path:
    """Write a kubeconfig, readable by its owner only, and return its path.

    Args:
        path: the file to write; replaced at once, never seen half written.
        server: URL of the API server.
        authority: certificate file that vouches for the server; None for plain http.
        user: the client certificate; None for none.
    """
    cluster: dict[str, object] = {"server": server}
    if authority is not None:
        cluster["certificate-authority-data"] = _encoded(authority)
    credentials: dict[str, object] = {}
    if user is not None:
        credentials["client-certificate-data"] = _encoded(user.certificate)
        credentials["client-key-data"] = _encoded(user.key)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": "user", "user": credentials}],
        "contexts": [{"name": "default", "context": {"cluster": "cluster", "user": "user"}}],
        "current-context": "default",
    }
    scratch = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as handle:
        handle.write(orjson.dumps(config, option=orjson.OPT_INDENT_2))  # JSON is YAML
    scratch.replace(path)
    return path


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
