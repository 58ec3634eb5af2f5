"""Names: agree with vcluster's, are valid, and never say more than 63 characters."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.dns1123 import is_subdomain
from syncer.naming import Names
from syncer.objects import Key

NAMES = Names("vcluster", "host-ns")

LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
SUBDOMAIN = st.lists(LABEL, min_size=1, max_size=4).map(".".join).filter(lambda n: len(n) <= 253)
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@pytest.mark.parametrize(
    ("translated", "expected"),
    [
        pytest.param(NAMES.host_name("", "default"), "", id="empty stays empty"),
        pytest.param(
            NAMES.host_name("my-app", "default"), "my-app-x-default-x-vcluster", id="plain"
        ),
        pytest.param(NAMES.host_name("a" * 60, "default"), "a" * 52 + "-a8402a2151", id="long"),
        pytest.param(
            NAMES.host_name("a" * 51 + ".bcdefghijkl", "default"),
            "a" * 51 + "-9d4596c34a",
            id="cut at a dot",
        ),
        pytest.param(
            NAMES.label_key("app"), "vcluster.loft.sh/label-vcluster-x-a172cedcae", id="label"
        ),
        pytest.param(
            NAMES.cluster_label_key("app"),
            "vcluster.loft.sh/label-host-ns-x-vcluster-x-a172cedcae",
            id="cluster label",
        ),
        pytest.param(
            NAMES.namespace_label_key("kubernetes.io/metadata.name"),
            "vcluster.loft.sh/ns-label-vcluster-x-cf1227b7b2",
            id="namespace label",
        ),
        pytest.param(
            NAMES.host_name_cluster("fast"), "vcluster-fast-x-host-ns-x-vcluster", id="cluster name"
        ),
        pytest.param(NAMES.host_name_cluster(""), "", id="empty cluster name"),
        pytest.param(NAMES.cluster_marker, "host-ns-x-vcluster", id="cluster marker"),
    ],
)
def test_names_are_those_of_vcluster(translated: str, expected: str) -> None:
    """A host namespace that vcluster synced is found again under the same names."""
    assert expected == translated


@given(name=SUBDOMAIN, namespace=LABEL, tenant=LABEL)
def test_host_names_are_valid_subdomains(name: str, namespace: str, tenant: str) -> None:
    """Any virtual name gives a DNS-1123 subdomain of at most 63 characters."""
    host = Names(tenant, "host").host_name(name, namespace)
    assert len(host) <= 63
    assert is_subdomain(host)


@given(name=LABEL, namespace=LABEL, tenant=LABEL)
def test_host_names_of_services_are_labels(name: str, namespace: str, tenant: str) -> None:
    """A service's name, a DNS label, gives a DNS label."""
    assert DNS_LABEL.fullmatch(Names(tenant, "host").host_name(name, namespace))


@given(key=st.text(min_size=1, max_size=80), tenant=LABEL)
def test_label_keys_are_bounded(key: str, tenant: str) -> None:
    """Label keys keep our prefix and at most 63 characters, whatever the tenant is called."""
    names = Names(tenant, "host")
    for translated in (names.label_key(key), names.namespace_label_key(key)):
        assert translated.startswith("vcluster.loft.sh/")
        assert len(translated) <= 63


@given(name=SUBDOMAIN, namespace=LABEL)
def test_translating_is_a_function_of_the_key(name: str, namespace: str) -> None:
    """The same key always has the same host key, in the one host namespace."""
    key = Key(namespace, name)
    assert NAMES.host_key(key) == NAMES.host_key(Key.parse(str(key)))
    assert NAMES.host_key(key).namespace == "host-ns"


@pytest.mark.parametrize(
    ("rules", "labels", "verbatim"),
    [
        pytest.param((), {"app": "a"}, {}, id="no rule copies nothing verbatim"),
        pytest.param(("app",), {"app": "a", "apple": "b"}, {"app": "a"}, id="exact key"),
        pytest.param(
            ("x.y/*",), {"x.y/z": "a", "xay/z": "b"}, {"x.y/z": "a"}, id="prefix, no regex"
        ),
        pytest.param(
            ("vcluster.loft.sh/*",),
            {"vcluster.loft.sh/managed-by": "me"},
            {},
            id="marks never cross",
        ),
    ],
)
def test_synced_labels_cross_verbatim(
    rules: tuple[str, ...], labels: dict[str, str], verbatim: dict[str, str]
) -> None:
    """``--sync-labels`` adds keys verbatim beside the translated ones, never our marks."""
    names = Names("vcluster", "host-ns", rules)
    translated = {names.label_key(key): value for key, value in labels.items()}
    assert {**translated, **verbatim} == names.labels(labels)


def test_selectors_keep_their_meaning() -> None:
    """Keys of matchLabels and matchExpressions are translated, operators and values kept."""
    selector = {
        "matchLabels": {"app": "a"},
        "matchExpressions": [{"key": "tier", "operator": "In", "values": ["x"]}],
    }
    assert {
        "matchLabels": {NAMES.label_key("app"): "a"},
        "matchExpressions": [{"key": NAMES.label_key("tier"), "operator": "In", "values": ["x"]}],
    } == NAMES.selector(selector)
    assert NAMES.selector(None) is None
    assert NAMES.selector({}) == {}


def test_limit_confines_a_selector_to_tenant_and_namespace() -> None:
    """An empty selector, limited, selects only the tenant's objects of the namespace."""
    assert NAMES.limit({}, "web") == {
        "matchLabels": {
            "vcluster.loft.sh/managed-by": "vcluster",
            "vcluster.loft.sh/namespace": "web",
        }
    }
