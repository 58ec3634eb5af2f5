r"""Raw ends of a connection, for tests of what goes over the wire.

    async with backend(script) as server, front(handler) as address:
        answer = await ask(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

A back end is a script that reads and writes bytes; a front is the endpoint's server over plain TCP;
a caller writes bytes and reads them. Nothing here decodes anything but heads.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from inspect import Parameter, Signature
from itertools import pairwise
from typing import Any, cast

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from syncer.http1.server import Answer, Handler, Request, Response
from syncer.kube.access import Access, load_key_pair
from syncer.kube.config import ConnectionConfig, Credentials
from syncer.proxy import endpoint
from syncer.proxy.listener import Listener
from syncer.proxy.refusal import RefusalError
from syncer.settings import Address

SECONDS = 20.0
"""How long anything may take that is to happen at all."""

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

_LOOPS = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(uvloop.new_event_loop, id="uvloop"),
]


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test twice: on asyncio's loop and on uvloop's."""

    @pytest.mark.parametrize("loop", _LOOPS)
    @functools.wraps(test)
    def run(loop: Callable[[], asyncio.AbstractEventLoop], *given: Any, **arguments: Any) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(_within(test(*given, **arguments)))

    wanted = {name: kind for name, kind in test.__annotations__.items() if name != "return"}
    run.__signature__ = _signature(["loop", *wanted])  # type: ignore[attr-defined]
    return cast("Callable[..., None]", run)


def _signature(names: list[str]) -> Any:
    return Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])


async def _within(test: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(3 * SECONDS):
        await test
    # Whatever the test's subject started has ended with it.
    await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds, which it may do already."""
    async with asyncio.timeout(SECONDS):
        while not holds():  # noqa: ASYNC110 - of a test
            await asyncio.sleep(0.001)


@dataclass
class End:
    """One end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def head(self) -> bytes:
        """Read up to the empty line."""
        async with asyncio.timeout(SECONDS):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def read(self, size: int) -> bytes:
        """Read so many bytes."""
        async with asyncio.timeout(SECONDS):
            return await self.reader.readexactly(size)

    async def body(self, head: bytes) -> bytes:
        """Read the body behind a head that says how long it is."""
        if b"chunked" not in head:
            _, found, size = head.partition(b"Content-Length: ")
            return await self.read(int(size.split(b"\r\n")[0])) if found else b""
        joined = b""
        while size := int((await self.until(b"\r\n")).strip(), 16):
            joined += (await self.read(size + 2))[:-2]
        assert await self.read(2) == b"\r\n"
        return joined

    async def rest(self) -> bytes:
        """Read up to the end; a connection that is cut raises."""
        async with asyncio.timeout(SECONDS):
            return await self.reader.read()

    async def until(self, text: bytes) -> bytes:
        """Read up to a text."""
        async with asyncio.timeout(SECONDS):
            return await self.reader.readuntil(text)

    async def say(self, data: bytes) -> None:
        """Write."""
        if self.writer.is_closing():
            raise ConnectionResetError("closed")
        self.writer.write(data)
        async with asyncio.timeout(SECONDS):
            await self.writer.drain()

    async def gone(self) -> bytes:
        """Wait until the other end closed or cut the connection; give what came before."""
        got = b""
        async with asyncio.timeout(SECONDS):
            with suppress(ConnectionError):
                while piece := await self.reader.read(1 << 16):
                    got += piece
        return got

    async def flood(self, most: int) -> int:
        """Write until the other end takes no more; give how many bytes went."""
        sent = 0
        piece = b"x" * 65536
        while sent < most:
            self.writer.write(piece)
            sent += len(piece)
            try:
                async with asyncio.timeout(0.3):
                    await self.writer.drain()
            except TimeoutError:
                return sent
        return sent

    async def in_pieces(self, data: bytes, cuts: Collection[int]) -> None:
        """Write packets that end before these places, each read before the next is written."""
        ends = [*sorted(cuts), len(data)]
        for start, stop in pairwise([0, *ends]):
            await self.say(data[start:stop])
            for _ in range(3):
                await asyncio.sleep(0)

    def stall(self) -> None:
        """Take nothing that comes."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def go_on(self) -> None:
        """Take what comes."""
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]

    def end(self) -> None:
        """Say that nothing more comes, and go on reading."""
        self.writer.write_eof()

    def cut(self) -> None:
        """Break the connection."""
        self.writer.transport.abort()

    def close(self) -> None:
        """Close the connection, once all is written."""
        self.writer.close()


Script = Callable[[End], Awaitable[None]]
"""Serves one connection."""


def always(*answers: bytes) -> Script:
    """Answer one request after the other, each with the next of these; then wait for the end."""

    async def script(end: End) -> None:
        for answer in answers:
            await end.head()
            await end.say(answer)
        await end.gone()

    return script


def hanging(said: bytes, asked: asyncio.Event) -> Script:
    """Say this to a request, and no more; then wait for the end."""

    async def script(end: End) -> None:
        await end.head()
        await end.say(said)
        asked.set()
        await end.gone()

    return script


async def echo(request: Request) -> Response:
    """Answer with method, target and body, as a front's handler."""
    body = b""
    while piece := await request.read():
        body += piece
    return Response(200, body=f"{request.method} {request.target} ".encode() + body)


@dataclass
class Backend:
    """A back end.

    Attributes:
        config: leads to it.
        connections: how many there were.
        open: how many there are.
        failures: of scripts.
    """

    config: ConnectionConfig
    connections: int = 0
    open: int = 0
    failures: list[BaseException] = field(default_factory=list)

    async def idle(self) -> None:
        """Wait until nobody is connected."""
        await eventually(lambda: not self.open)


class Renewing(ConnectionConfig):
    """Has one token after the other."""

    def __init__(self, server: str, tokens: Sequence[str]) -> None:
        """Have the first of them; each refresh gives the next, while there is one."""
        self._left = list(tokens)
        super().__init__(lambda _: Access(server, authorization=f"Bearer {self._left[0]}"))

    async def refresh(self, refused: Credentials) -> Credentials:
        """Go on to the next token."""
        if len(self._left) > 1:
            del self._left[0]
        self._adopt(self._read(self._files), None)
        return self._credentials


RENEWALS = [
    pytest.param(True, ["a"], [b"a"], True, id="good at once"),
    pytest.param(True, ["old", "a"], [b"old", b"a"], True, id="good when read again"),
    pytest.param(True, ["old"], [b"old"], False, id="never good"),
    pytest.param(True, ["old", "older"], [b"old", b"older"], False, id="asked twice at most"),
    pytest.param(False, ["a"], [b""], False, id="the caller's own, none"),
]
"""Whether our own credentials go along, those we have, those that are sent, whether one is good."""


def by_token(got: list[bytes], answer: bytes) -> Script:
    """Answer who has the token ``a``, refuse all others; note the tokens."""

    async def script(end: End) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not got or got[-1] != b"a":
                head = await end.head()
                got.append(head.partition(b"Bearer ")[2].partition(b"\r\n")[0])
                no = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"
                await end.say(answer if got[-1] == b"a" else no)

    return script


@asynccontextmanager
async def backend(script: Script) -> AsyncIterator[Backend]:
    """Serve each connection by a script."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        found.connections += 1
        found.open += 1
        try:
            await script(End(reader, writer))
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - told at the end
            found.failures.append(error)
        finally:
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            found.open -= 1
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    port = server.sockets[0].getsockname()[1]
    access = Access(f"http://127.0.0.1:{port}")
    found = Backend(ConnectionConfig(lambda _files: access))
    try:
        yield found
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
    if found.failures:
        raise found.failures[0]


@asynccontextmanager
async def front(handler: Handler, *, most: int = 100) -> AsyncIterator[Address]:
    """Listen as the endpoint does, but over plain TCP; a refusal becomes its Status."""

    async def answer(request: Request) -> Answer:
        try:
            return await handler(request)
        except RefusalError as refusal:
            return endpoint._refused(refusal, request)

    listener = Listener(most=most)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: listener.connect(answer), "127.0.0.1", 0)
    try:
        yield Address("127.0.0.1", listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        await listener.close(0.1)
        await eventually(lambda: not listener.connections)


@asynccontextmanager
async def caller(address: Address, tls: ssl.SSLContext | None = None) -> AsyncIterator[End]:
    """Connect."""
    name = "localhost" if tls else None
    reader, writer = await asyncio.open_connection(
        address.host, address.port, limit=1 << 20, ssl=tls, server_hostname=name
    )
    try:
        yield End(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def ask(address: Address, request: bytes, tls: ssl.SSLContext | None = None) -> bytes:
    """Send a request on a connection of its own, and read all that comes until it is closed."""
    async with caller(address, tls) as end:
        await end.say(request)
        return await end.rest()


def tls_pair() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Give the contexts of a server and of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    load_key_pair(server, certificate, private)
    return server, ssl.create_default_context(cadata=certificate.decode())


def closing(request: bytes) -> bytes:
    """Give a request that is the last on its connection."""
    return request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
