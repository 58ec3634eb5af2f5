"""Dials for one API server: a CONNECT proxy on a Unix socket, told by files where addresses lead.

    python egress_proxy.py SOCKET DIRECTORY

An API server takes it as its egress to the cluster, so every kubelet, pod, service and aggregated
API it calls is asked for here. A destination with a route is dialled where the route leads, one on
loopback directly, and nothing else at all (502). DIRECTORY holds the `routes`, a file each, read
anew for every connection, so that any process can change them; and `dials`, the newest of what was
asked for, written before the answer goes out.

A process of its own, so that no test that blocks its event loop blocks its API server. Only the
standard library, so that it starts in no time. The names and formats of the files are defined here;
`egress.py` reads and writes them from the other side.
"""

import asyncio
import contextlib
import ipaddress
import re
import sys
from pathlib import Path
from typing import Literal

ROUTES = "routes"
"""Folder in DIRECTORY: its files are named by `route_name`, their content is by `route_text`."""

DIALS = "dials"
"""File in DIRECTORY: an outcome, a blank and what the API server asked for on each line."""

Outcome = Literal["routed", "direct", "refused", "failed"]
"""What became of a dial: failed means that nothing answered at the place that it led to."""

Destination = tuple[str, int]
"""A host (an address or a name) and a port."""

_IPV6 = r"[0-9a-f]*:[0-9a-f:.]*"
_TARGET = re.compile(  # a host is a safe name of a file, whatever else it means
    rf"(?:(?P<name>[0-9a-z][0-9a-z.-]*)|\[(?P<bracketed>{_IPV6})\])(?::(?P<port>[0-9]{{1,5}}))?"
    rf"|(?P<bare>{_IPV6})"
)
_CONNECT = re.compile(rb"CONNECT (\S+) HTTP/1\.[01]\r\n")
_LONGEST = 253 + 6  # a domain name and a port
_HEAD_TIMEOUT = 10.0  # seconds
_DIAL_TIMEOUT = 5.0  # seconds
_CHUNK = 1 << 16  # bytes
_ANSWERS = {
    200: b"HTTP/1.1 200 Connection established\r\n\r\n",
    400: b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    502: b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
}


def parse(target: str) -> tuple[str, int | None]:
    """Return host and port of `HOST`, `HOST:PORT` or `[IPV6]:PORT`; the port is None if absent.

    Raises:
        ValueError: it is none of these.
    """
    found = _TARGET.fullmatch(target.lower())
    if found is None or int(found["port"] or 0) >= 1 << 16 or len(target) > _LONGEST:
        raise ValueError(f"{target!r} is not HOST or HOST:PORT")
    host = found["name"] or found["bracketed"] or found["bare"]
    return host, int(found["port"]) if found["port"] else None


def route_name(host: str, port: int | None) -> str:
    """Return the name of the file of a route for one port or (None) for all others of a host."""
    return host if port is None else f"{host}_{port}"


def route_text(host: str, port: int | None) -> str:
    """Return the content of a route's file: where it leads; None leaves the port as asked for."""
    return host if port is None else f"{host} {port}"


class EgressProxy:
    """Serves the connections of one API server."""

    def __init__(self, directory: Path, kept: int = 10_000) -> None:
        """Take routes from `directory` and write dials into it, at least the last `kept` of them.

        The file has never more than twice as many lines.
        """
        self._kept = kept
        self._routes = directory / ROUTES
        self._routes.mkdir(parents=True, exist_ok=True)
        self._file = directory / DIALS
        self._file.touch()
        self._lines = self._file.read_bytes().count(b"\n")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection: a CONNECT, then bytes both ways until both have ended."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            try:
                await self._connect(reader, writer)
            finally:
                writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_HEAD_TIMEOUT):
            head = await reader.readuntil(b"\r\n\r\n")
        asked = _CONNECT.match(head)
        if asked is None:
            writer.write(_ANSWERS[400])
            return
        target = asked[1].decode(errors="backslashreplace")
        outcome, destination = self._decide(target)
        upstream = None
        if destination is not None:
            try:
                async with asyncio.timeout(_DIAL_TIMEOUT):
                    upstream = await asyncio.open_connection(*destination)
            except OSError:  # a TimeoutError is one
                outcome = "failed"
        self._record(outcome, target)
        writer.write(_ANSWERS[200 if upstream else 502])
        if upstream is not None:
            await _join((reader, writer), upstream)

    def _decide(self, target: str) -> tuple[Outcome, Destination | None]:
        """Return what to do with a dial, and the place to dial if any."""
        try:
            host, port = parse(target)
        except ValueError:
            return "refused", None
        if port is None:
            return "refused", None
        for name in (route_name(host, port), route_name(host, None)):
            with contextlib.suppress(FileNotFoundError):
                to, _, to_port = (self._routes / name).read_text().partition(" ")
                return "routed", (to, int(to_port or port))
        return ("direct", (host, port)) if _is_loopback(host) else ("refused", None)

    def _record(self, outcome: Outcome, target: str) -> None:
        with self._file.open("a") as dials:
            dials.write(f"{outcome} {target}\n")
        self._lines += 1
        if self._lines >= 2 * self._kept:
            self._shorten()

    def _shorten(self) -> None:
        kept = self._file.read_text().splitlines(keepends=True)[-self._kept :]
        scratch = self._file.with_suffix(".new")
        scratch.write_text("".join(kept))
        scratch.replace(self._file)  # at once, so that a reader always finds the newest
        self._lines = len(kept)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _join(one: _Stream, other: _Stream) -> None:
    """Carry bytes and the end of each direction across, until both directions have ended."""
    copies = [
        asyncio.create_task(_copy(one[0], other[1])),
        asyncio.create_task(_copy(other[0], one[1])),
    ]
    try:
        await asyncio.gather(*copies)
    finally:
        for copy in copies:  # one has failed: nothing is worth carrying any more
            copy.cancel()
        other[1].close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK):
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()


async def main(socket: str, directory: Path) -> None:
    """Serve at the Unix socket path `socket` until killed."""
    proxy = EgressProxy(directory)
    server = await asyncio.start_unix_server(proxy.serve, socket)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
