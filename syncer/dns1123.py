"""What Kubernetes takes for the name of an object.

Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
"""

from __future__ import annotations

import re
from typing import Final

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LONGEST: Final = 253


def is_label(text: str) -> bool:
    """Say whether a namespace or a Service could have this name (RFC 1123 label).

    Args:
        text: the name.
    """
    return _LABEL.fullmatch(text) is not None


def is_subdomain(text: str) -> bool:
    """Say whether most objects could have this name (RFC 1123 subdomain).

    Args:
        text: the name.
    """
    return len(text) <= _LONGEST and _SUBDOMAIN.fullmatch(text) is not None
