"""Host messages in the tenant's names."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncer.naming import HIDDEN, Names, hide_host_names
from syncer.objects import Key

NAMES = Names("vc", "host-ns")
LONG = Key("default", "a" * 60)
WEB = {"web-x-default-x-vc": Key("default", "web")}
BOTH = {**WEB, NAMES.host_name(LONG.name, LONG.namespace): LONG}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "exceeded quota",
        "the word host-ns alone",
        "hosts-ns/web",
        "web-x-default-x-vc2",
        "web-x-default-x-vc-2",
        "my-web-x-default",
        "-x-vc",
    ],
)
def test_what_is_nobodys_stays(text: str) -> None:
    """A text without host names of this tenant is left as it is."""
    assert hide_host_names(text, NAMES, {}) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('pod "web-x-default-x-vc" not found', 'pod "web" not found'),
        ("pods host-ns/web-x-default-x-vc.", "pods default/web."),
        ("pod=web-x-default-x-vc_host-ns(12)", "pod=web_default(12)"),
        ("web-x-default-x-vc.host-ns.svc.cluster.local", "web.default.svc.cluster.local"),
        ("host-ns/db-x-prod-x-vc", "prod/db"),
        ("volume my.db-x-prod-x-vc: in use", "volume my.db: in use"),
        ("class vcluster-fast-x-host-ns-x-vc", "class fast"),
        (f"pod {NAMES.host_name(LONG.name, LONG.namespace)}", f"pod {LONG.name}"),
        ('in the namespace "host-ns"', 'in the namespace "default"'),
        ("namespace host-ns is terminating", "namespace default is terminating"),
        ("/api/v1/namespaces/host-ns/pods", "/api/v1/namespaces/default/pods"),
        ("host-ns/other", "default/other"),
        ('User "system:serviceaccount:host-ns:vc-a" cannot', 'User "the syncer" cannot'),
    ],
)
def test_host_names_are_swapped(text: str, told: str) -> None:
    """Known names exactly, others by their shape, the namespace where it is meant as one."""
    assert hide_host_names(text, NAMES, BOTH) == told


@pytest.mark.parametrize("known", [{}, {**WEB, "db": Key("prod", "db")}], ids=["none", "two"])
def test_a_namespace_that_is_not_known_is_hidden(known: dict[str, Key]) -> None:
    """Where no one virtual namespace is meant, the host's is left out all the same."""
    assert hide_host_names('in namespace "host-ns"', NAMES, known) == f'in namespace "{HIDDEN}"'


def test_the_longest_known_name_wins() -> None:
    """A known name that is the start of another is not mistaken for it."""
    known = {"a": Key("n", "short"), "a.b": Key("n", "long")}
    assert hide_host_names("a.b and a", NAMES, known) == "long and short"


@settings(deadline=None)
@given(st.text(alphabet='abx-._/ :"', max_size=40))
def test_no_text_breaks_it(text: str) -> None:
    """Whatever a message holds, it is told, and no copy's name of this tenant is left in it."""
    told = hide_host_names(f"{text} host-ns/db-x-prod-x-vc", NAMES, WEB)
    assert told.endswith(" prod/db")


def test_a_hostile_message_is_told_in_good_time() -> None:
    """A message made to slow pattern matching down does not."""
    assert hide_host_names("-x-a" * 50_000 + " host-ns", NAMES, WEB)
