"""The mass-deletion guard's judgement, and the gate it closes."""

import asyncio

import pytest

from syncer.engine.gate import Gate, GateClosedError
from syncer.engine.guard import State, host_lost, judge
from syncer.objects import Object

UID, OTHER = "uid-1", "uid-2"


@pytest.mark.parametrize(
    ("recorded", "uid", "version", "host_lost", "refused"),
    [
        pytest.param(State(UID, 10), UID, 10, False, None, id="the same cluster, the same version"),
        pytest.param(State(UID, 10), UID, 99, False, None, id="later"),
        pytest.param(None, UID, 5, False, None, id="a new pair"),
        pytest.param(State("", 0), UID, 5, False, None, id="a record without identity is none"),
        pytest.param(State(UID, 10), OTHER, 99, False, "another virtual cluster", id="other UID"),
        pytest.param(State(UID, 10), UID, 9, False, "went back", id="restored to the past"),
        pytest.param(State(UID, 10), UID, 10, True, "was the host restored", id="host lost all"),
        pytest.param(None, UID, 5, True, "was it reset", id="host lost all and the record too"),
        pytest.param(State(OTHER, 99, UID), UID, 1, True, None, id="accepted by the operator"),
        pytest.param(State(UID, 10, OTHER), UID, 9, False, "went back", id="accepted for another"),
    ],
)
def test_judgement(
    recorded: State | None, uid: str, version: int, host_lost: bool, refused: str | None
) -> None:
    """Another, a restored or an emptied cluster is refused, with the way to go on."""
    reason = judge(recorded, uid, version, host_lost=host_lost, how="kubectl do this")
    if refused is None:
        assert reason is None
    else:
        assert reason is not None
        assert refused in reason
        assert "kubectl do this" in reason


STARTED: Object = {"metadata": {"name": "a"}, "status": {"startTime": "2026-01-01T00:00:00Z"}}
LEAVING: Object = {
    **STARTED,
    "metadata": {"name": "b", "deletionTimestamp": "2026-01-01T00:00:30Z"},
}
PENDING: Object = {"metadata": {"name": "c"}, "status": {"phase": "Pending"}}


@pytest.mark.parametrize(
    ("pods", "copies", "lost"),
    [
        pytest.param([], 0, False, id="nothing anywhere"),
        pytest.param([STARTED], 3, False, id="the host's owner deleted pods, the rest is there"),
        pytest.param([PENDING], 0, False, id="nothing was on the host yet"),
        pytest.param([LEAVING], 0, False, id="the last pod was being deleted"),
        pytest.param([{"metadata": {"name": "d"}}], 0, False, id="a pod without a status"),
        pytest.param([LEAVING, None, STARTED], 0, True, id="a started pod without anything"),
    ],
)
def test_a_host_is_lost_when_nothing_of_ours_is_left(
    pods: list[Object | None], copies: int, lost: bool
) -> None:
    """Only a started pod that nobody deletes, with no copy of any kind, proves a loss."""
    assert host_lost(pods, copies) == lost


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(None, State("", 0), id="no data"),
        pytest.param({"virtual-uid": "u", "virtual-version": "7"}, State("u", 7), id="record"),
        pytest.param({"virtual-version": "-x"}, State("", 0), id="odd version"),
        pytest.param({"virtual-version": "2²"}, State("", 0), id="digits that are no number"),
        pytest.param({"accept": "u"}, State("", 0, "u"), id="only an acceptance"),
    ],
)
def test_the_record_is_read_leniently(data: dict[str, str] | None, expected: State) -> None:
    """People edit config maps: what can't be read counts as not recorded."""
    assert expected == State.read({"data": data})


async def test_the_gate_opens_when_the_last_reason_is_gone() -> None:
    """Every holder has to open it; until then writes are refused with all reasons."""
    gate = Gate(guard="starting", owner="no service")
    with pytest.raises(GateClosedError, match="starting; no service"):
        gate.check()
    waiting = asyncio.create_task(gate.wait_open())
    gate.open("guard")
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.open("owner")
    await waiting
    gate.check()
    gate.close("guard", "restored")
    assert not gate.may_write()
    assert dict(gate.reasons) == {"guard": "restored"}
