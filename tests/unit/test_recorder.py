"""Events: what is counted, combined and held back, and what a failed write leads to."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.client import Client
from syncer.kube.config import load_kubeconfig
from syncer.kube.errors import ApiError, TransportError
from syncer.kube.recorder import (
    ATTEMPTS,
    BURST,
    COMBINED,
    MESSAGE_BYTES,
    NAME_LENGTH,
    REFILL,
    REMEMBERED,
    SIMILAR,
    SIMILAR_SECONDS,
    WAITING,
    Answer,
    Correlator,
    EventRecorder,
    Involved,
    Topic,
    answer_to,
    cut,
    event_name,
    rfc3339,
)
from syncer.objects import Object

NOON = 1_763_726_400.0
POD = Involved("v1", "Pod", "default", "web", "uid-1")
TOPIC = Topic(POD, "Warning", "SyncError", "pod-syncer")


def note(correlator: Correlator, message: str, now: float = NOON, topic: Topic = TOPIC) -> Any:
    """Count one note."""
    return correlator.add(topic, message, "7", now)


# -- counting ------------------------------------------------------------------------------------


def test_one_event_holds_what_the_api_wants() -> None:
    """An Event names its object, its source and one time, in UTC."""
    body = note(Correlator(), "no such secret").body("web.1")
    assert body == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "web.1", "namespace": "default"},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": "default",
            "name": "web",
            "uid": "uid-1",
            "resourceVersion": "7",
        },
        "type": "Warning",
        "reason": "SyncError",
        "message": "no such secret",
        "source": {"component": "pod-syncer"},
        "reportingComponent": "pod-syncer",
        "reportingInstance": "",
        "count": 1,
        "firstTimestamp": "2025-11-21T12:00:00Z",
        "lastTimestamp": "2025-11-21T12:00:00Z",
    }


def test_events_of_cluster_scoped_objects_live_in_default() -> None:
    """An Event needs a namespace even when its object has none."""
    node = Topic(Involved("v1", "Node", "", "n1", "u"), "Normal", "A", "c")
    body = note(Correlator(), "m", topic=node).body("n1.1")
    assert body["metadata"]["namespace"] == "default"
    assert "namespace" not in body["involvedObject"]


def test_repeats_raise_the_count() -> None:
    """The same message again is the same Event, later and once more."""
    correlator = Correlator()
    first = note(correlator, "m")
    second = note(correlator, "m", NOON + 5)
    assert first is second
    assert second.repeat() == {
        "count": 2,
        "lastTimestamp": "2025-11-21T12:00:05Z",
        "message": "m",
    }


@pytest.mark.parametrize(
    "other",
    [
        TOPIC._replace(involved=POD._replace(uid="uid-2")),
        TOPIC._replace(type="Normal"),
        TOPIC._replace(reason="Other"),
        TOPIC._replace(component="other"),
    ],
    ids=["another UID", "another type", "another reason", "another component"],
)
def test_other_topics_are_other_events(other: Topic) -> None:
    """Only notes that say the same about the same object share an Event."""
    correlator = Correlator()
    assert note(correlator, "m") is not note(correlator, "m", topic=other)


def test_many_similar_messages_are_combined() -> None:
    """After ten different messages of one reason the further ones share one Event."""
    correlator = Correlator()
    single = [note(correlator, f"m{number}") for number in range(SIMILAR)]
    assert len({id(series) for series in single}) == SIMILAR
    combined = [note(correlator, f"m{number}") for number in range(SIMILAR, SIMILAR + 3)]
    assert len({id(series) for series in combined}) == 1
    assert combined[-1].count == 3
    assert combined[-1].message == f"{COMBINED}m{SIMILAR + 2}"
    assert note(correlator, "m0") is single[0]


def test_messages_are_single_again_after_a_while() -> None:
    """Ten minutes without one of that reason start the count of different messages anew."""
    correlator = Correlator()
    for number in range(SIMILAR + 1):
        note(correlator, f"m{number}")
    later = note(correlator, "new", NOON + SIMILAR_SECONDS + 1)
    assert later.message == "new"


def test_an_object_has_a_budget_of_writes() -> None:
    """A burst is allowed, then one write every five minutes."""
    correlator = Correlator()
    assert [correlator.allow(TOPIC, NOON) for _ in range(int(BURST) + 2)][-3:] == [
        True,
        False,
        False,
    ]
    assert not correlator.allow(TOPIC, NOON + REFILL - 1)
    assert correlator.allow(TOPIC, NOON + REFILL)
    assert not correlator.allow(TOPIC, NOON + REFILL)


def test_budgets_are_of_one_object() -> None:
    """One noisy object takes nothing from another."""
    correlator = Correlator()
    for _ in range(int(BURST) + 1):
        correlator.allow(TOPIC, NOON)
    assert correlator.allow(TOPIC._replace(involved=POD._replace(name="other")), NOON)


def test_budget_survives_a_clock_set_back() -> None:
    """A wall clock that goes backwards neither refills nor empties a budget."""
    correlator = Correlator()
    assert correlator.allow(TOPIC, NOON)
    assert all(correlator.allow(TOPIC, NOON - 3600) for _ in range(int(BURST) - 1))
    assert not correlator.allow(TOPIC, NOON - 3600)


@pytest.mark.parametrize("used_between", [True, False], ids=["used", "unused"])
def test_memory_is_bounded(used_between: bool) -> None:
    """The least recently used series is forgotten first, and its count starts anew."""
    correlator = Correlator()
    series = note(correlator, "m")
    for number in range(REMEMBERED):
        if used_between and number == REMEMBERED // 2:
            note(correlator, "m")
        note(correlator, "m", topic=TOPIC._replace(reason=str(number)))
    assert (note(correlator, "m") is series) is used_between


# -- names, times, messages ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("involved", "name"),
    [
        ("web", "web.ff"),
        ("a" * 253, "a" * 250 + ".ff"),
        ("a" * 249 + ".bcd", "a" * 249 + ".ff"),
    ],
    ids=["short", "as long as names get", "cut at a dot"],
)
def test_event_names_are_names(involved: str, name: str) -> None:
    """An Event's name is its object's with a time, cut to the length of a name."""
    assert event_name(involved, 0xFF) == name
    assert len(name) <= NAME_LENGTH


@given(st.text(max_size=2000) | st.text("aé€😀", min_size=300, max_size=600))
def test_messages_fit(message: str) -> None:
    """A message is cut between characters and otherwise left alone."""
    result = cut(message)
    assert len(result.encode()) <= MESSAGE_BYTES
    assert result == message.encode(errors="replace").decode() or result.endswith("...")


def test_messages_that_cannot_be_encoded_do_no_harm() -> None:
    """A lone surrogate, as badly decoded input has it, becomes a question mark."""
    assert cut("a\ud800b") == "a?b"


def test_times_are_utc() -> None:
    """Times are written as metav1.Time has them."""
    assert rfc3339(NOON + 0.9) == "2025-11-21T12:00:00Z"


# -- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason", "creating", "answer"),
    [
        pytest.param(404, "NotFound", True, Answer.DROP, id="namespace gone"),
        pytest.param(403, "Forbidden", True, Answer.DROP, id="namespace terminating"),
        pytest.param(422, "Invalid", True, Answer.DROP, id="refused"),
        pytest.param(404, "NotFound", False, Answer.CREATE, id="event expired"),
        pytest.param(409, "AlreadyExists", True, Answer.WRITTEN, id="had gone through"),
        pytest.param(409, "Conflict", False, Answer.RETRY, id="conflict"),
        pytest.param(401, "Unauthorized", True, Answer.RETRY, id="token expired"),
        pytest.param(429, "TooManyRequests", False, Answer.RETRY, id="throttled"),
        pytest.param(503, "", True, Answer.RETRY, id="unavailable"),
    ],
)
def test_what_follows_from_a_refusal(
    status: int, reason: str, creating: bool, answer: Answer
) -> None:
    """Passing trouble is retried, an expired Event made anew, the rest dropped."""
    assert answer_to(ApiError(status, reason, "m"), creating=creating) is answer


@pytest.mark.parametrize("creating", [True, False])
def test_no_answer_is_retried(creating: bool) -> None:
    """A lost connection says nothing about the Event."""
    error = TransportError("POST /x", ConnectionResetError())
    assert answer_to(error, creating=creating) is Answer.RETRY


# -- the recorder, without a server --------------------------------------------------------------


@pytest.fixture
async def nowhere(tmp_path: Path, unused_tcp_port: int) -> Any:
    """A client of an API server that isn't there."""
    path = tmp_path / "kubeconfig"
    path.write_text(
        f"""
apiVersion: v1
kind: Config
current-context: a
contexts: [{{name: a, context: {{cluster: a, user: a}}}}]
clusters: [{{name: a, cluster: {{server: "http://127.0.0.1:{unused_tcp_port}"}}}}]
users: [{{name: a, user: {{}}}}]
"""
    )
    client = Client(load_kubeconfig(path))
    yield client
    await client.close()


class Naps:
    """Sleeps that take no time and are remembered."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        """Let others run."""
        self.seconds.append(seconds)
        await asyncio.sleep(0)


def pod(name: str = "web") -> Object:
    """A pod to record events about."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "7"},
    }


def test_repeats_that_wait_cost_no_write(nowhere: Client) -> None:
    """However often an Event is noted before it is written, it waits once."""
    recorder = EventRecorder(nowhere, now=lambda: NOON)
    for _ in range(100):
        recorder.event(pod(), "Warning", "SyncError", "m", "pod-syncer")
    assert (recorder.waiting, recorder.limited, recorder.dropped) == (1, 0, 0)


def test_full_queue_drops_the_oldest(nowhere: Client) -> None:
    """What can't be written fast enough is dropped and counted, oldest first."""
    recorder = EventRecorder(nowhere, now=lambda: NOON)
    for number in range(WAITING + 3):
        recorder.event(pod(f"p{number}"), "Warning", "SyncError", "m", "pod-syncer")
    assert (recorder.waiting, recorder.dropped) == (WAITING, 3)


def test_noisy_object_is_held_back(nowhere: Client) -> None:
    """Beyond its budget an object's Events are only counted."""
    recorder = EventRecorder(nowhere, now=lambda: NOON)
    for number in range(int(BURST) + 5):
        recorder.event(pod(), "Warning", f"Reason{number}", "m", "pod-syncer")
    assert (recorder.waiting, recorder.limited) == (int(BURST), 5)


@pytest.mark.parametrize("involved", [{}, {"metadata": None}, {"metadata": {"name": "x"}}])
def test_incomplete_objects_raise_nothing(nowhere: Client, involved: Object) -> None:
    """The caller never has to guard against its recorder."""
    EventRecorder(nowhere).event(involved, "Warning", "SyncError", "m", "pod-syncer")


async def run_until_idle(recorder: EventRecorder, handled: int) -> None:
    """Run the recorder until it has written or dropped so many."""
    task = asyncio.create_task(recorder.run())
    async with asyncio.timeout(30):
        while recorder.written + recorder.dropped < handled:  # noqa: ASYNC110 - a plain counter
            await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_unreachable_server_is_tried_a_few_times(nowhere: Client) -> None:
    """Attempts come ever later, then the Event is dropped and the next one has its turn."""
    naps = Naps()
    recorder = EventRecorder(nowhere, now=lambda: NOON, sleep=naps, random=lambda: 0.5)
    recorder.event(pod("a"), "Warning", "SyncError", "m", "pod-syncer")
    recorder.event(pod("b"), "Warning", "SyncError", "m", "pod-syncer")
    await run_until_idle(recorder, 2)
    assert naps.seconds == [0.5, 1.0, 2.0] * 2
    assert len(naps.seconds) == 2 * (ATTEMPTS - 1)
    assert (recorder.written, recorder.dropped) == (0, 2)


async def test_closed_gate_holds_everything_back(nowhere: Client) -> None:
    """While nothing may be written, no request is made and nothing is lost."""
    naps = Naps()
    recorder = EventRecorder(nowhere, may_write=lambda: False, sleep=naps)
    recorder.event(pod(), "Warning", "SyncError", "m", "pod-syncer")
    task = asyncio.create_task(recorder.run())
    async with asyncio.timeout(30):
        while len(naps.seconds) < 5:  # noqa: ASYNC110 - a plain counter
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (recorder.waiting, recorder.written, recorder.dropped) == (1, 0, 0)
