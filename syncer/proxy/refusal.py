"""Answers that the endpoint gives itself, in the form an API server would give them.

A refusal is raised wherever it is found and becomes a ``Status`` in one place; its text is for the
tenant: no host name, address or credential may be in it.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Final

import orjson

from syncer.http1.server import Response
from syncer.naming import Names, hide_host_names
from syncer.objects import Key, Object
from syncer.proxy.request import RequestInfo

_REASONS: Final = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


_HEADERS: Final = {"Cache-Control": "no-cache, private", "X-Content-Type-Options": "nosniff"}
"""What API servers send with refusals."""


class RefusalError(Exception):
    """The request is answered with this instead of being passed on.

    Attributes:
        code: HTTP status.
        reason: of the Status, CamelCase.
        message: one line for people, in the tenant's terms.
        details: of the Status, or none.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        code: int,
        message: str,
        *,
        reason: str = "",
        details: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Make a refusal; without a reason it has the usual one of its code."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason or _REASONS.get(code, "")
        self.details = dict(details or {})
        self.headers = dict(headers or {})

    @property
    def status(self) -> Object:
        """The Status object, a new one each time."""
        status: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}}
        status |= {"status": "Failure", "message": self.message, "reason": self.reason}
        if self.details:
            status["details"] = self.details
        return {**status, "code": self.code}

    def body(self) -> bytes:
        """The Status as JSON, with the line end that API servers write behind it."""
        return orjson.dumps(self.status, option=orjson.OPT_APPEND_NEWLINE)

    def answer(self, *, close: bool = False) -> Response:
        """Give it as an answer.

        Args:
            close: whether the connection ends with it.
        """
        return json_answer(self.body(), self.code, {**_HEADERS, **self.headers}, close=close)


def json_answer(
    body: bytes,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    *,
    close: bool = False,
) -> Response:
    """Give an answer in JSON.

    Args:
        body: its body.
        status: HTTP status.
        headers: further headers.
        close: whether the connection ends with it.
    """
    fields = [("Content-Type", "application/json"), *(headers or {}).items()]
    return Response(status, fields, body, close)


def not_found(resource: str, name: str, group: str = "") -> RefusalError:
    """Say that an object is not there, as an API server does.

    Args:
        resource: plural, such as ``pods``.
        name: of the object.
        group: API group.
    """
    kind = f"{resource}.{group}" if group else resource
    details = {"name": name, "group": group, "kind": resource}
    if not group:
        del details["group"]
    return RefusalError(404, f'{kind} "{name}" not found', details=details)


def in_tenants_words(status: object, code: int, key: Key, names: Names) -> RefusalError:
    """Say a refusal of the host's in the tenant's names.

    Args:
        status: the host's Status; of what has another form, nothing is told.
        code: HTTP status.
        key: of the virtual object whose copy it is about.
        names: the tenant's names.
    """
    known = {names.host_key(key).name: key}

    def told(said: object, *fields: str) -> dict[str, str]:
        found = said if isinstance(said, dict) else {}
        return {
            field: hide_host_names(text, names, known)
            for field in fields
            if isinstance(text := found.get(field), str)
        }

    given = status.get("details") if isinstance(status, dict) else None
    details: Object = dict(told(given, "name", "kind"))
    causes = given.get("causes") if isinstance(given, dict) else None
    if isinstance(causes, list):
        details["causes"] = [told(cause, "reason", "message", "field") for cause in causes]
    words = told(status, "message", "reason")
    return RefusalError(
        code, words.get("message", ""), reason=words.get("reason", ""), details=details
    )


def forbidden(user: str, info: RequestInfo, verb: str, why: str = "") -> RefusalError:
    """Say that the user may not do it, as an API server does.

    Args:
        user: name of the user.
        info: the request.
        verb: the verb that was asked for.
        why: what the authoriser said, if anything.

    Source: k8s.io/apiserver v0.36 ``pkg/endpoints/handlers/responsewriters``, ``forbiddenMessage``.
    """
    if info.is_resource:
        resource = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
        where = f'in the namespace "{info.namespace}"' if info.namespace else "at the cluster scope"
        what = f'resource "{resource}" in API group "{info.group}" {where}'
        kind = f"{info.resource}.{info.group}" if info.group else info.resource
        which = f'{kind} "{info.name}" is forbidden' if info.name else f"{kind} is forbidden"
        details = {"name": info.name, "group": info.group, "kind": info.resource}
    else:
        what, which, details = f'path "{info.path}"', "forbidden", {}
    said = escape(f'User "{user}" cannot {verb} {what}', quote=False)
    message = f"{which}: {said}: {why}" if why else f"{which}: {said}"
    return RefusalError(
        403,
        message,
        details={key: value for key, value in details.items() if value},
    )
