"""Names as Kubernetes takes them."""

import pytest

from syncer.dns1123 import is_label, is_subdomain


@pytest.mark.parametrize(
    ("text", "label", "subdomain"),
    [
        ("a", True, True),
        ("a-0", True, True),
        ("0a", True, True),
        ("a" * 63, True, True),
        ("a" * 64, False, True),
        ("a.b", False, True),
        (".".join(["a" * 63] * 4)[:253], False, True),
        (".".join(["a" * 63] * 4)[:254], False, False),
        ("", False, False),
        ("A", False, False),
        ("a_b", False, False),
        ("-a", False, False),
        ("a-", False, False),
        ("a..b", False, False),
        (".a", False, False),
        ("a\n", False, False),
        ("ä", False, False),
    ],
)
def test_names(text: str, label: bool, subdomain: bool) -> None:
    """Lower case, digits, dashes within; dots between labels; 63 and 253 characters."""
    assert (is_label(text), is_subdomain(text)) == (label, subdomain)
