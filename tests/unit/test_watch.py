from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.store import Meta
from syncer.kube.watch import Bookmark, DecodeError, Decoder, Failure, ObjectEvent, Verb
from syncer.objects import Key


def line(verb: str, obj: object) -> bytes:
    return orjson.dumps({"type": verb, "object": obj}) + b"\n"


def config_map(name: str, version: int, **data: str) -> dict[str, object]:
    metadata = {
        "namespace": "ns",
        "name": name,
        "uid": f"u-{name}",
        "resourceVersion": f"{version}",
    }
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": data}


GONE = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
END = {"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}}

STREAM = b"".join(
    [
        line("ADDED", config_map("a", 5, text="line\nbreak, and ünicode")),
        line("BOOKMARK", {"metadata": END}),
        line("MODIFIED", config_map("a", 10)),
        line("DELETED", config_map("b", 11)),
        line("BOOKMARK", {"metadata": {"resourceVersion": "12"}}),
        line("ERROR", GONE),
    ]
)


def test_nothing_comes_of_incomplete_or_empty_lines() -> None:
    """A line counts when its line feed is there; empty lines are no events."""
    decoder = Decoder()
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\n\n") == []
    assert decoder.feed(STREAM[:20]) == []


def test_every_type_of_event_is_decoded() -> None:
    """Objects come with key, UID and version, bookmarks with the end mark, errors as values."""
    added, end, modified, deleted, mark, failure = Decoder().feed(STREAM)
    assert isinstance(added, ObjectEvent)
    assert (added.verb, added.key, added.meta) == (Verb.ADDED, Key("ns", "a"), Meta("u-a", 5))
    assert added.decode() == config_map("a", 5, text="line\nbreak, and ünicode")
    assert end == Bookmark(9, initial_end=True)
    assert isinstance(modified, ObjectEvent)
    assert (modified.verb, modified.meta.version) == (Verb.MODIFIED, 10)
    assert isinstance(deleted, ObjectEvent)
    assert (deleted.verb, deleted.key, deleted.meta) == (
        Verb.DELETED,
        Key("ns", "b"),
        Meta("u-b", 11),
    )
    assert mark == Bookmark(12, initial_end=False)
    assert failure == Failure(410, "Expired", "too old")


def test_cluster_scoped_objects_have_no_namespace() -> None:
    """The key of an object without a namespace has an empty one."""
    node = {"metadata": {"name": "node-0", "uid": "u", "resourceVersion": "1"}}
    (event,) = Decoder().feed(line("ADDED", node))
    assert isinstance(event, ObjectEvent)
    assert event.key == Key("", "node-0")


@given(cuts=st.lists(st.integers(min_value=0, max_value=len(STREAM)), max_size=20))
def test_the_split_into_chunks_changes_nothing(cuts: list[int]) -> None:
    """However the bytes are cut, even inside a character, the same events come out."""
    decoder = Decoder()
    edges = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[a:b] for a, b in pairwise(edges)]
    assert [e for chunk in chunks for e in decoder.feed(chunk)] == Decoder().feed(STREAM)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_limit_holds_for_any_split(size: int) -> None:
    """A line at the limit passes, one byte more is refused, before its end has come."""
    event = line("ADDED", config_map("a", 5, text="x" * 500))
    exact = Decoder(max_line=len(event) - 1)
    chunks = [event[i : i + size] for i in range(0, len(event), size)]
    assert len([e for chunk in chunks for e in exact.feed(chunk)]) == 1
    small = Decoder(max_line=len(event) - 2)
    assert small.feed(event[: len(event) - 2]) == []
    with pytest.raises(DecodeError, match=f"longer than {len(event) - 2} bytes"):
        small.feed(b"}")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"<html>secret</html>\n", id="not JSON"),
        pytest.param(b'{"object":{"secret":1}}\n', id="no type"),
        pytest.param(line("SECRET", {"metadata": {}}), id="unknown type"),
        pytest.param(line("ADDED", {"secret": 1}), id="no metadata"),
        pytest.param(line("ADDED", {"metadata": {"name": "secret"}}), id="no UID"),
        pytest.param(
            line("ADDED", {"metadata": {"name": "a", "uid": "u", "resourceVersion": "x"}}),
            id="version is no number",
        ),
        pytest.param(line("BOOKMARK", {"metadata": {}}), id="bookmark without version"),
        pytest.param(b'{"type":"ADDED","object":{"metadata":\xff\xfe}}\n', id="not UTF-8"),
        pytest.param(b'{"type":"ADDED","object":' + b"[" * 50_000 + b"\n", id="endlessly nested"),
    ],
)
def test_what_is_no_event_is_an_error_without_contents(text: bytes) -> None:
    """Bytes that are no watch raise one clear error, which quotes nothing of them."""
    with pytest.raises(DecodeError) as caught:
        Decoder().feed(text)
    assert "secret" not in str(caught.value).lower()
