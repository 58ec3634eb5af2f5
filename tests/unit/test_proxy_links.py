"""Links of proxied pages: by the tenant's names, however the page is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncer.http1.head import Header
from syncer.proxy.links import LinkRewriter

HOST = "/api/v1/namespaces/host-1/pods/web-x-default-x-t:80/proxy"
VIRTUAL = "/api/v1/namespaces/default/pods/web:80/proxy"
HTML: list[Header] = [("Content-Type", "text/html")]


def rewritten(pieces: list[bytes], host: str = HOST, virtual: str = VIRTUAL) -> bytes:
    """Rewrite a page that comes in these pieces."""
    feed = LinkRewriter(host, virtual).body(HTML)
    assert feed is not None
    return b"".join([*map(feed, filter(None, pieces)), feed(b"")])


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        pytest.param("", "", id="nothing"),
        pytest.param("<a href='/other'>", "<a href='/other'>", id="no link of ours"),
        pytest.param(HOST[:-1], HOST[:-1], id="the beginning of one"),
        pytest.param(f"<a href='{HOST}/a'>", f"<a href='{VIRTUAL}/a'>", id="a link"),
        pytest.param(f"{HOST}{HOST}", f"{VIRTUAL}{VIRTUAL}", id="two"),
        pytest.param(f"{HOST[:9]}{HOST}", f"{HOST[:9]}{VIRTUAL}", id="a false start"),
        pytest.param(f"{HOST}{HOST[:20]}", f"{VIRTUAL}{HOST[:20]}", id="a false end"),
    ],
)
def test_links_lead_where_they_led(page: str, wanted: str) -> None:
    """The host's path is the tenant's, everything else as it was; whole and byte by byte."""
    text = page.encode()
    assert rewritten([text]) == wanted.encode()
    assert rewritten([text[at : at + 1] for at in range(len(text))]) == wanted.encode()


WORDS = st.sampled_from([HOST, HOST[:20], HOST[20:], VIRTUAL, "/api", "a", "<a href='", "'>"])


@settings(deadline=None)
@given(st.lists(WORDS, max_size=8).map("".join), st.lists(st.integers(0, 400), max_size=6))
def test_where_a_page_is_cut_changes_nothing(page: str, cuts: list[int]) -> None:
    """The same bytes come out."""
    text = page.encode()
    at = [0, *sorted(cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(at)]
    assert rewritten(pieces) == text.replace(HOST.encode(), VIRTUAL.encode())


@settings(deadline=None)
@given(
    st.text("ab/", min_size=1, max_size=4),
    st.text("ab/", max_size=4),
    st.lists(st.text("ab/", max_size=3), max_size=8),
)
def test_so_for_any_paths(host: str, virtual: str, pieces: list[str]) -> None:
    """Even where what is put in looks like what is sought."""
    wanted = "".join(pieces).replace(host, virtual).encode()
    assert rewritten([piece.encode() for piece in pieces], host, virtual) == wanted


SERVER = "10.0.0.1:6443"


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([HOST, SERVER, "http://", "https://", "https:", "//", "<a href='", "a"]),
        max_size=12,
    ).map("".join),
    st.lists(st.integers(0, 600), max_size=6),
)
def test_the_hosts_own_address_goes_too(page: str, cuts: list[int]) -> None:
    """Where a link names the server of the path, in any scheme; wherever it is cut."""
    text, at = page.encode(), sorted(cuts)
    feed = LinkRewriter(HOST, VIRTUAL, SERVER).body(HTML)
    assert feed is not None
    pieces = [text[start:end] for start, end in pairwise([0, *at, len(text)])]
    wanted = page
    for before in (f"http://{SERVER}", f"https://{SERVER}", f"//{SERVER}", ""):
        wanted = wanted.replace(f"{before}{HOST}", VIRTUAL)
    assert b"".join([*map(feed, filter(None, pieces)), feed(b"")]) == wanted.encode()
    headers = LinkRewriter(HOST, VIRTUAL, SERVER)
    assert headers.location("Location", page) == wanted


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=20))
def test_little_is_held_back(pieces: list[bytes]) -> None:
    """Less than one path, whatever comes."""
    feed = LinkRewriter(HOST, VIRTUAL).body(HTML)
    assert feed is not None
    came = went = 0
    for piece in filter(None, pieces):
        came += len(piece)
        went += len(feed(piece))
        assert came - went < len(HOST)


@pytest.mark.parametrize(
    ("headers", "rewrites"),
    [
        pytest.param([], False, id="none"),
        pytest.param([("Content-Type", "application/json")], False, id="JSON"),
        pytest.param([("Content-Type", "text/html; charset=utf-8")], True, id="a page"),
        pytest.param([("content-type", "text/html")], True, id="case"),
        pytest.param([*HTML, ("Content-Encoding", "gzip")], False, id="packed"),
        pytest.param([*HTML, ("Content-Encoding", "identity")], True, id="not packed"),
        pytest.param([*HTML, ("Content-Type", "text/plain")], True, id="a page, said first"),
        pytest.param([("Content-Type", "text/plain"), *HTML], False, id="a page, said second"),
    ],
)
def test_only_pages_are_rewritten(headers: list[Header], rewrites: bool) -> None:
    """Those that an API server rewrote, too."""
    assert (LinkRewriter(HOST, VIRTUAL).body(headers) is not None) == rewrites


@pytest.mark.parametrize("name", ["Location", "location", "Content-Location", "Refresh", "Link"])
def test_headers_that_lead_somewhere_are_rewritten(name: str) -> None:
    """A redirect leads through the endpoint again."""
    links = LinkRewriter(HOST, VIRTUAL)
    assert links.location(name, f"https://a{HOST}/b") == f"https://a{VIRTUAL}/b"
    assert links.location("ETag", HOST) == HOST
