"""The options of the commands, once: flag, environment variable, default and meaning.

Read by :func:`syncer.settings.load_options`, shown by ``--help``.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from syncer.dns1123 import is_label, is_subdomain
from syncer.objects import Key
from syncer.settings import Bool, DnsLabel, HttpsUrl, Option, TenantName, Word

SERVICE_ACCOUNT_NAMESPACE: Final = "kube-system"
"""Where a service account is that was named without a namespace. Source: vcluster connect."""

TOKEN_SECONDS: Final = (600, 86_400, 2**32)
"""Least life of a token that an API server accepts, the default (a day), and the most.

Source: Kubernetes 1.36 ``pkg/apis/authentication/validation``.
"""

_DEFAULT_NAME = "vcluster"
_ACCOUNT_RULE = (
    'must be "name" or "namespace/name": lower case letters, digits, "-", and "." in the name'
)


def _account(value: object) -> Key | None:
    if value is None or isinstance(value, Key):
        return value
    namespace, slash, name = str(value).rpartition("/")
    namespace = namespace if slash else SERVICE_ACCOUNT_NAMESPACE
    if not (is_label(namespace) and is_subdomain(name)):
        raise ValueError(_ACCOUNT_RULE)
    return Key(namespace, name)


def _or_default_name(value: str) -> str:
    return value or _DEFAULT_NAME  # as an empty --name of start


def _role(value: str) -> str:
    if value in (".", "..") or re.search(r"[/%]", value):
        raise ValueError('must be the name of a ClusterRole, without "/" and "%"')
    return value


def _seconds(value: object) -> object:
    least, _, most = TOKEN_SECONDS
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}", value):
        value = int(value)
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"must be a whole number of seconds, {least} to {most}")
    return value


def _for_account(value: object, info: ValidationInfo) -> object:
    if "service_account" in info.data and info.data["service_account"] is None:
        raise ValueError("is for a service account: --service-account=NAME must be given too")
    return value


_CLUSTER = "The virtual cluster"
_SERVERS = "API servers"
_KUBECONFIG = "The kubeconfig"
_ACCOUNT = "A service account in place of the administrator"


class KubeconfigOptions(BaseModel):
    """Options of ``syncer kubeconfig``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[TenantName, AfterValidator(_or_default_name), Option(_CLUSTER, "NAME")] = Field(
        default=_DEFAULT_NAME, description="Name of the virtual cluster."
    )
    namespace: Annotated[
        DnsLabel,
        Option(
            _CLUSTER,
            "NAMESPACE",
            variable=False,
            ambient="NAMESPACE",
            shown_default="the pod's own, else default",
        ),
    ] = Field(default="", description="Host namespace that its syncer runs in.")

    host_kube_config: Annotated[
        str,
        Option(
            _SERVERS,
            "FILE",
            ambient="KUBECONFIG",
            shown_default="the pod's own service account, else ~/.kube/config",
        ),
    ] = Field(default="", description="Kubeconfig for the host cluster, to read the secret there.")
    kube_config: Annotated[str, Option(_SERVERS, "FILE", variable=False)] = Field(
        default="",
        description=(
            "Kubeconfig of an administrator of the virtual cluster, to begin with in place of the"
            " secret on the host."
        ),
    )

    server: Annotated[
        HttpsUrl,
        Option(_KUBECONFIG, "URL", variable=False, shown_default="what the secret names"),
    ] = Field(default="", description="Server that it names.")
    insecure: Annotated[Bool, Option(_KUBECONFIG, variable=False)] = Field(
        default=False,
        description=(
            "Don't check the server's certificate: for ways on which it has another name. Whoever"
            " is on the way can read and change everything."
        ),
    )
    context_name: Annotated[
        Word, Option(_KUBECONFIG, "NAME", variable=False, shown_default="as in the secret")
    ] = Field(default="", description="Name of its context, cluster and user.")

    service_account: Annotated[
        Key | None,
        BeforeValidator(_account),
        Option(_ACCOUNT, "[NAMESPACE/]NAME", variable=False),
    ] = Field(
        default=None,
        description=(
            "Service account of the virtual cluster whose token it holds; the namespace is"
            f" {SERVICE_ACCOUNT_NAMESPACE} when none is given."
        ),
    )
    cluster_role: Annotated[
        Word,
        AfterValidator(_role),
        AfterValidator(_for_account),
        Option(_ACCOUNT, "NAME", variable=False),
    ] = Field(
        default="",
        description=(
            "ClusterRole that the account is bound to in the whole virtual cluster; account and"
            " binding are made when missing."
        ),
    )
    token_expiration: Annotated[
        int,
        BeforeValidator(_seconds),
        AfterValidator(_for_account),
        Option(_ACCOUNT, "SECONDS", variable=False),
    ] = Field(default=TOKEN_SECONDS[1], description="Life of the token; it is not renewed.")
