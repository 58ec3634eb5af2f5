"""How the endpoint reads a request: as an API server does, or not at all."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from syncer.proxy.request import MAX_TARGET, BadTargetError, RequestInfo, read


def row(title: str, method: str, target: str, /, **wanted: Any) -> Any:
    """Make a row of a table."""
    return pytest.param(method, target, wanted, id=title)


POD = {"namespace": "other", "resource": "pods", "name": "foo"}
NAMESPACE = {"namespace": "other", "resource": "namespaces", "name": "other"}
PODS = {"namespace": "other", "resource": "pods"}


# -- what an API server reads --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "wanted"),
    [
        row("namespaces", "GET", "/api/v1/namespaces", verb="list", resource="namespaces"),
        row("a namespace", "GET", "/api/v1/namespaces/other", verb="get", **NAMESPACE),
        row("a namespace patched", "PATCH", "/api/v1/namespaces/other", verb="patch", **NAMESPACE),
        row("pods", "GET", "/api/v1/namespaces/other/pods", verb="list", **PODS),
        row("pods, one slash more", "GET", "/api/v1/namespaces/other/pods/", verb="list", **PODS),
        row("pods, headers only", "HEAD", "/api/v1/pods", verb="list", resource="pods"),
        row("a pod", "GET", "/api/v1/namespaces/other/pods/foo", verb="get", **POD),
        row("a pod's headers", "HEAD", "/api/v1/namespaces/other/pods/foo", verb="get", **POD),
        row("all pods", "GET", "/api/v1/pods", verb="list", resource="pods"),
        row("create", "POST", "/api/v1/namespaces/other/pods", verb="create", **PODS),
        row("update", "PUT", "/api/v1/namespaces/other/pods/foo", verb="update", **POD),
        row("patch", "PATCH", "/api/v1/namespaces/other/pods/foo", verb="patch", **POD),
        row("delete", "DELETE", "/api/v1/namespaces/other/pods/foo", verb="delete", **POD),
        row("other methods", "OPTIONS", "/api/v1/namespaces/other/pods/foo", verb="", **POD),
        row("delete all", "DELETE", "/api/v1/nodes", verb="deletecollection", resource="nodes"),
        row(
            "delete all of a group",
            "DELETE",
            "/apis/extensions/v1/namespaces/other/pods",
            verb="deletecollection",
            group="extensions",
            **PODS,
        ),
        row(
            "a group and a version",
            "POST",
            "/apis/extensions/v1beta3/namespaces/other/pods",
            verb="create",
            group="extensions",
            version="v1beta3",
            **PODS,
        ),
        row(
            "the old proxy verb",
            "GET",
            "/api/v1/proxy/namespaces/other/pods/foo",
            verb="proxy",
            **POD,
        ),
        row(
            "the old proxy verb has no subresources",
            "GET",
            "/api/v1/proxy/namespaces/other/pods/foo/subpath/not/a/subresource",
            verb="proxy",
            **POD,
        ),
        row("the old watch verb", "GET", "/api/v1/watch/pods", verb="watch", resource="pods"),
        row(
            "the old watch verb in a namespace",
            "GET",
            "/api/v1/watch/namespaces/other/pods",
            verb="watch",
            **PODS,
        ),
        row(
            "the old watch verb has subresources",
            "GET",
            "/api/v1/watch/namespaces/other/pods/foo/log",
            verb="watch",
            subresource="log",
            **POD,
        ),
        row(
            "a subresource",
            "GET",
            "/api/v1/namespaces/other/pods/foo/status",
            verb="get",
            subresource="status",
            **POD,
        ),
        row(
            "a subresource and more",
            "GET",
            "/api/v1/namespaces/other/pods/foo/proxy/subpath",
            verb="get",
            subresource="proxy",
            tail="/subpath",
            **POD,
        ),
        row(
            "finalize of a namespace",
            "PUT",
            "/api/v1/namespaces/other/finalize",
            verb="update",
            subresource="finalize",
            **NAMESPACE,
        ),
        row(
            "status of a namespace",
            "PUT",
            "/api/v1/namespaces/other/status",
            verb="update",
            subresource="status",
            **NAMESPACE,
        ),
    ],
)
def test_resources_are_read_as_api_servers_read_them(
    method: str, target: str, wanted: dict[str, str]
) -> None:
    """Facts of requestinfo_test.go of Kubernetes 1.36."""
    raw_path, _, query = target.partition("?")
    full = {"version": "v1", **wanted}
    assert read(method, target) == RequestInfo(
        method, raw_path, raw_path, query, is_resource=True, **full
    )


@pytest.mark.parametrize(
    ("target", "verb"),
    [
        pytest.param("/", "get", id="root"),
        pytest.param("/api", "get", id="api"),
        pytest.param("/api/v1", "get", id="a version"),
        pytest.param("/api/v1/", "get", id="a version and a slash"),
        pytest.param("/apis/group", "get", id="a group"),
        pytest.param("/apis/group/v1", "get", id="a group's version"),
        pytest.param("/apis/group/v1/", "get", id="a group's version and a slash"),
        pytest.param("/other/v1/pods", "get", id="another prefix"),
        pytest.param("/healthz/etcd", "get", id="health"),
        pytest.param("/api/v1/watch", "get", id="nothing to watch"),
        pytest.param("/api/v1/proxy/", "get", id="nothing to proxy to"),
    ],
)
def test_other_paths_are_no_resources(target: str, verb: str) -> None:
    """What is no object's path has a path and the method for a verb, nothing else."""
    assert read("GET", target) == RequestInfo("GET", target, target, verb=verb)


@pytest.mark.parametrize(
    ("query", "verb"),
    [
        pytest.param("", "list", id="none"),
        pytest.param("watch=true", "watch", id="true"),
        pytest.param("watch=1", "watch", id="1"),
        pytest.param("watch=", "watch", id="empty"),
        pytest.param("watch", "watch", id="bare"),
        pytest.param("watch=f", "watch", id="f is no false"),
        pytest.param("watch=no", "watch", id="no is no false"),
        pytest.param("w%61tch=1", "watch", id="encoded"),
        pytest.param("watch=0", "list", id="0"),
        pytest.param("watch=False", "list", id="False"),
        pytest.param("limit=5&watch=0&watch=1", "list", id="the first counts"),
        pytest.param("limit=5&watch=1&watch=0", "watch", id="the first counts, too"),
        pytest.param("Watch=1", "list", id="case counts"),
        pytest.param("watch=true&fieldSelector=metadata.name%3Da", "watch", id="a selector"),
    ],
)
def test_watches_are_told_from_lists(query: str, verb: str) -> None:
    """There, and neither 0 nor false, is true: what an API server streams counts as a stream."""
    info = read("GET", f"/api/v1/pods?{query}")
    assert (info.verb, info.query, info.name) == (verb, query, "")


def test_a_single_object_is_not_watched() -> None:
    """The parameter means nothing for one object, as for an API server."""
    assert read("GET", "/api/v1/nodes/a?watch=1").verb == "get"


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("", id="nothing"),
        pytest.param("*", id="of the server"),
        pytest.param("api/v1/pods", id="relative"),
        pytest.param("https://other.example/api", id="absolute"),
        pytest.param("other.example:443", id="authority"),
        pytest.param("//api/v1/pods", id="two slashes at first"),
        pytest.param("/api//v1/pods", id="an empty segment"),
        pytest.param("/api/v1/pods//", id="two slashes at the end"),
        pytest.param("/api/v1/./pods", id="a dot"),
        pytest.param("/api/v1/../pods", id="two dots"),
        pytest.param("/api/v1/pods/..", id="two dots at the end"),
        pytest.param("/api/v1/%2e%2e/pods", id="encoded dots"),
        pytest.param("/api/v1/.%2E/pods", id="half encoded dots"),
        pytest.param("/api/v1/%252e%252e/pods", id="dots encoded twice"),
        pytest.param("/api/v1/pods%2Ffoo", id="an encoded slash"),
        pytest.param("/api/v1/pods%5cfoo", id="an encoded backslash"),
        pytest.param("/api/v1/pods%252ffoo", id="a slash encoded twice"),
        pytest.param("/api/v1/po%2564s", id="encoded twice"),
        pytest.param("/api/v1/pods%00", id="NUL"),
        pytest.param("/api/v1/pods%0d%0aX:", id="line break"),
        pytest.param("/api/v1/pods%7f", id="DEL"),
        pytest.param("/api/v1/pods%ff", id="not UTF-8"),
        pytest.param("/api/v1/p%c0%afods", id="overlong"),
        pytest.param("/api/v1/pods%2", id="half an escape"),
        pytest.param("/api/v1/pods%zz", id="no escape"),
        pytest.param("/api/v1/po\\ds", id="backslash"),
        pytest.param("/api/v1/pods#a", id="fragment"),
        pytest.param("/api/v1/pöds", id="not ASCII"),
        pytest.param("/api/v1/po ds", id="space"),
        pytest.param("/api/v1/pods?a#b", id="fragment behind the query"),
        pytest.param("/api/v1/pods?a b", id="space in the query"),
        pytest.param("/api/v1/pods?ä", id="not ASCII in the query"),
        pytest.param("/api/v1/pods?a\r\nX: b", id="line break in the query"),
        pytest.param("/" + "a" * MAX_TARGET, id="too long"),
        pytest.param("/api/v1/namespaces/a/pods/b/proxy/..", id="dots behind a proxy"),
        pytest.param("/api/v1/namespaces/a/pods/b/proxy/c%2f..%2fd", id="hidden behind a proxy"),
        pytest.param("/api/v1/namespaces/a/pods/b/proxy/%252e%252e", id="twice behind a proxy"),
        pytest.param("/api/v1/namespaces/a/pods/b/proxy/..%5cc", id="backslashes behind a proxy"),
        pytest.param("/api/v1/namespaces/a/pods/b%2fproxy/c%2fd", id="a proxy that is none"),
        pytest.param("/api/v1/namespaces/a/pods/b/pro%78y/c%2fd", id="a proxy that is encoded"),
        pytest.param("/api/v1/namespaces/a/nodes/b/proxy/c%2fd", id="a proxy that is nowhere"),
        pytest.param("/api/v1/namespaces/a%2f/pods/b/proxy/c", id="a slash before a proxy"),
    ],
)
def test_what_reads_in_two_ways_is_refused(target: str) -> None:
    """No target gets through of which another server could make something else."""
    with pytest.raises(BadTargetError):
        read("GET", target)


@pytest.mark.parametrize(
    ("target", "name", "tail"),
    [
        pytest.param("/api/v1/namespaces/a/pods/b/proxy", "b", "", id="nothing behind it"),
        pytest.param("/api/v1/namespaces/a/pods/b/proxy/", "b", "/", id="the root"),
        pytest.param("/api/v1/namespaces/a/pods/b:80/proxy/c", "b:80", "/c", id="a port"),
        pytest.param("/api/v1/namespaces/a/pods/b/proxy/c/", "b", "/c/", id="a last slash"),
        pytest.param(
            "/api/v1/namespaces/a/pods/b/proxy//c///", "b", "//c///", id="its own slashes"
        ),
        pytest.param("/api/v1/namespaces/a/pods/b/proxy/c%2Fd", "b", "/c%2Fd", id="encoded slash"),
        pytest.param("/api/v1/namespaces/a/pods/b/proxy/%2561", "b", "/%2561", id="encoded twice"),
        pytest.param("/api/v1/namespaces/a/services/b/proxy/c", "b", "/c", id="service"),
        pytest.param("/api/v1/nodes/b/proxy/c/d", "b", "/c/d", id="node"),
        pytest.param("/api/v1/namespaces/a/pods/b/pro%78y/c", "b", "/c", id="encoded, plain tail"),
    ],
)
def test_a_workloads_path_is_its_own(target: str, name: str, tail: str) -> None:
    """Behind a proxy, a path may be all that leads nowhere else; it is kept as it was written."""
    info = read("GET", target)
    assert (info.subresource, info.name, info.tail) == ("proxy", name, tail)
    assert info.raw_path.endswith(tail)


def test_a_name_is_decoded() -> None:
    """An escape that hides nothing is the character it stands for."""
    info = read("GET", "/api/v1/nodes/%61%20b%C3%A4%25")
    assert (info.name, info.path) == ("a bä%", "/api/v1/nodes/a bä%")


def test_parameters_keep_their_order() -> None:
    """All are there, decoded, in order; the first of a name is its value."""
    info = read("POST", "/api/v1/namespaces/a/pods/b/exec?command=a&command=b%26&tty&x=+y")
    assert info.parameters() == [("command", "a"), ("command", "b&"), ("tty", ""), ("x", " y")]
    assert (info.parameter("command"), info.parameter("none")) == ("a", "")


# -- properties ----------------------------------------------------------------------------------

WORDS = st.sampled_from([
    "api", "apis", "v1", "namespaces", "pods", "services", "nodes", "proxy", "watch", "log", "exec",
    "status", "a", "b:80", "é", "~", "c+d", ".", "..", "%2e", "%2F", "%252e", "%25", "e\\f", "g h",
    "",
])  # fmt: skip
PATHS = st.lists(WORDS, min_size=1, max_size=9).map(lambda words: "/" + "/".join(words))


def spelled(draw: st.DrawFn, text: str) -> str:
    """Write a path anew: any character but slashes may be percent-encoded, in either case."""
    out = []
    for char in text:
        codes = [f"%{byte:02X}" for byte in char.encode()]
        plain = quote(char, safe="/:~")
        forms = [plain] if char == "/" else [plain, "".join(codes), "".join(codes).lower()]
        out.append(draw(st.sampled_from(forms)))
    return "".join(out)


@st.composite
def spellings(draw: st.DrawFn) -> tuple[str, str]:
    """Give two spellings of one path."""
    path = draw(st.lists(WORDS, min_size=1, max_size=9).map(lambda words: "/" + "/".join(words)))
    return spelled(draw, path), spelled(draw, path)


@settings(deadline=None)
@given(spellings())
def test_two_spellings_never_mean_different_things(two: tuple[str, str]) -> None:
    """Each spelling of a path is refused, or means the same as every other one."""
    found = []
    for target in two:
        try:
            info = read("GET", target)
        except BadTargetError:
            continue
        found.append(replace(info, raw_path="", tail=""))
    assert all(info == found[0] for info in found)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["watch", "w%61tch", "%77ATCH", "limit", "watch+", "", "Watch"]),
            st.sampled_from(
                ["", "=", "=0", "=%30", "=1", "=false", "=FALS%45", "=f", "=0+", "=0=1"]
            ),
        ),
        max_size=4,
    )
)
def test_a_watch_is_what_its_first_parameter_says(pairs: list[tuple[str, str]]) -> None:
    """Encoded or not, among any others: as by decoding all of the query."""
    query = "&".join(key + value for key, value in pairs)
    values = [v for k, v in parse_qsl(query, keep_blank_values=True) if k == "watch"]
    watch = bool(values) and values[0].lower() not in ("0", "false")
    assert read("GET", f"/api/v1/pods?{query}").verb == ("watch" if watch else "list")


@settings(deadline=None)
@given(PATHS)
def test_what_is_read_is_what_a_server_that_decodes_once_reads(path: str) -> None:
    """The segments of the decoded path are those that were read: none is hidden in another."""
    try:
        info = read("GET", path)
    except BadTargetError:
        return
    if info.is_resource and not info.tail:
        words = [w for w in (info.group, info.version, info.resource, info.name) if w]
        words += [info.subresource] if info.subresource else []
        assert [word for word in words if word not in info.path.split("/")] == []
    assert not {".", ".."} & set(info.path.replace("\\", "/").split("/"))


@settings(deadline=None)
@given(st.text(max_size=60), st.sampled_from(["GET", "POST", "DELETE", "OPTIONS"]))
def test_any_text_is_read_or_refused(target: str, method: str) -> None:
    """Nothing makes the reading fail in another way."""
    for text in (target, f"/{target}", f"/api/v1/namespaces/{target}"):
        try:
            info = read(method, text)
        except BadTargetError:
            continue
        assert text == info.raw_path + (f"?{info.query}" if "?" in text else "")
