"""Health: says what is wrong in Kubernetes' own form, on the addresses asked for and no others."""

from collections.abc import Callable

import aiohttp
import pytest

from syncer.kube.errors import ConfigError
from syncer.ops.health import Health, report
from syncer.settings import Address

ANY = Address("127.0.0.1", 0)
"""Any free port of the loopback interface."""


class Figures:
    """Metrics as health sees them."""

    def render(self) -> bytes:
        """Give something to find again."""
        return b"syncer_up 1\n"


def good() -> str | None:
    return None


def bad() -> str | None:
    return "two\nlines"


async def get(address: Address, path: str) -> tuple[int, str]:
    url = f"http://{address}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


@pytest.mark.parametrize(
    ("checks", "excluded", "verbose", "expected"),
    [
        pytest.param({}, [], False, (True, "ok"), id="no checks"),
        pytest.param({"a": good}, [], False, (True, "ok"), id="well"),
        pytest.param(
            {"a": good, "b": good},
            [],
            True,
            (True, "[+]a ok\n[+]b ok\nreadyz check passed\n"),
            id="well, verbose",
        ),
        pytest.param(
            {"a": good, "b": bad},
            [],
            False,
            (False, "[+]a ok\n[-]b failed: two lines\nreadyz check failed\n"),
            id="a failure is told without asking, on one line",
        ),
        pytest.param({"a": good, "b": bad}, ["b"], False, (True, "ok"), id="excluded"),
        pytest.param(
            {"a": good, "b": bad},
            ["b"],
            True,
            (True, "[+]a ok\n[+]b excluded: ok\nreadyz check passed\n"),
            id="excluded, verbose",
        ),
        pytest.param(
            {"a": bad},
            ["x"],
            False,
            (
                False,
                """[-]a failed: two lines
warn: nothing to exclude: no check is called x
readyz check failed
""",
            ),
            id="nothing to exclude",
        ),
    ],
)
def test_report(
    checks: dict[str, Callable[[], str | None]],
    excluded: list[str],
    verbose: bool,
    expected: tuple[bool, str],
) -> None:
    """The answer is "ok", or each check with its outcome and reason."""
    assert report(checks, excluded=excluded, verbose=verbose) == expected


def test_excluded_checks_are_not_asked() -> None:
    """A check that is excluded is not called at all."""

    def never() -> str | None:
        raise AssertionError

    assert report({"a": never}, excluded=["a"])[0]


async def test_endpoints_answer() -> None:
    """Ready is 200 or 500 by the checks; alive is 200 whatever they say."""
    health = Health()
    reason: str | None = "still listing"
    health.add_ready("lists", lambda: reason)
    async with health.serve(ANY, None, Figures()):
        address = health.listening["health"]
        assert await get(address, "/livez") == (200, "ok")
        assert await get(address, "/healthz") == (200, "ok")
        status, text = await get(address, "/readyz")
        assert (status, "[-]lists failed: still listing" in text) == (500, True)
        assert (await get(address, "/readyz?exclude=lists"))[0] == 200
        reason = None
        assert await get(address, "/readyz") == (200, "ok")
        assert (await get(address, "/readyz?verbose"))[1].startswith("[+]lists ok\n")
        assert (await get(address, "/metrics"))[0] == 404
        assert (await get(address, "/"))[0] == 404


async def test_metrics_have_their_own_address() -> None:
    """Two addresses are two listeners, each with its own paths only."""
    health = Health()
    other = Address("localhost", 0)
    async with health.serve(ANY, other, Figures()):
        assert await get(health.listening["metrics"], "/metrics") == (200, "syncer_up 1\n")
        assert (await get(health.listening["metrics"], "/readyz"))[0] == 404
        assert (await get(health.listening["health"], "/metrics"))[0] == 404


async def test_equal_addresses_share_a_listener() -> None:
    """Where both addresses are the same, one listener serves everything."""
    health = Health()
    async with health.serve(ANY, ANY, Figures()):
        assert health.listening["health"] == health.listening["metrics"]
        assert (await get(health.listening["health"], "/metrics"))[0] == 200
        assert (await get(health.listening["health"], "/readyz"))[0] == 200


async def test_off_means_no_listener() -> None:
    """Without addresses nothing listens."""
    health = Health()
    async with health.serve(None, None, Figures()):
        assert health.listening == {}


async def test_listeners_end_with_the_body() -> None:
    """After the body, also after one that failed, the port is free again."""
    health = Health()
    addresses = []

    async def body() -> None:
        async with health.serve(ANY, None, Figures()):
            addresses.append(health.listening["health"])
            raise RuntimeError("body")

    with pytest.raises(RuntimeError, match="body"):
        await body()
    with pytest.raises(aiohttp.ClientConnectorError):
        await get(addresses[0], "/livez")


async def test_address_in_use_is_one_line() -> None:
    """An address that is taken is told with its flag, and leaves no listener behind."""
    first, second = Health(), Health()
    async with first.serve(ANY, None, Figures()):
        taken = first.listening["health"]
        with pytest.raises(ConfigError) as caught:
            async with second.serve(Address("localhost", 0), taken, Figures()):
                pass
    assert str(caught.value) == (
        f"can't listen on {taken} (--metrics-bind-address): Address already in use"
    )
