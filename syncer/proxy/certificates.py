"""The certificate that the endpoint serves, issued by the virtual cluster's server CA.

The work is done by :mod:`syncer.proxy.issuer` in a process of its own: importing ``cryptography``
would cost the syncer 9 MB for good, the process 0.12 s of CPU once a year and at each change.

Invariants:
* keys go through pipes and memory, never to a disk, an argument or a message;
* a CA that can't issue is a :class:`ConfigError` of one line: flag, file, and what is wrong.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from syncer.kube.access import Files
from syncer.kube.errors import ConfigError, one_line

ISSUE_SECONDS: Final = 30.0
"""Issuing has to be done after so many seconds; it takes 0.15."""

_PROGRAM: Final = Path(__file__).with_name("issuer.py")
_SAID = 300  # characters of the program's last line kept for the message


@dataclass(frozen=True, slots=True)
class ServerCa:
    """The files of the CA that issues.

    Attributes:
        certificate: its PEM, maybe with the CAs above it (``--server-ca-cert``).
        key: PEM of its private key (``--server-ca-key``).
    """

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate to serve.

    Attributes:
        certificate: PEM of the certificate and the intermediate CAs that lead to the root.
        key: PEM of its private key.
        names: DNS names and IP addresses it is good for.
        not_after: when it ends, seconds since the epoch.
        limited: whether it is the CA's own end that ends it: issuing again would gain nothing.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    names: frozenset[str]
    not_after: float
    limited: bool = False


class _Answer(msgspec.Struct):
    certificate: str = ""
    key: str = ""
    not_after: float = 0.0
    limited: bool = False
    wrong: str = ""
    reason: str = ""


_ANSWER: Final = msgspec.json.Decoder(_Answer)


async def issue(
    authority: ServerCa,
    names: frozenset[str],
    *,
    now: float,
    files: Files,
    seconds: float = ISSUE_SECONDS,
) -> Issued:
    """Issue a certificate. Cancelling it kills the process that was to do it.

    Args:
        authority: who issues.
        names: DNS names and IP addresses of the server; at least one.
        now: seconds since the epoch.
        files: reads the CA's files, and knows then when they change.
        seconds: after so many it is given up.

    Raises:
        ConfigError: a file can't be read or is no use, or the process fails.
    """
    certificate = files.read(authority.certificate, "--server-ca-cert")
    key = files.read(authority.key, "--server-ca-key")
    asked = {
        "certificate": certificate.decode("ascii", "replace"),
        "key": key.decode("ascii", "replace"),
        "names": sorted(names),
        "now": now,
    }
    answer = await _run(msgspec.json.encode(asked), authority, seconds)
    if answer.wrong:
        raise _refused(authority, answer)
    pair = answer.certificate.encode(), answer.key.encode()
    return Issued(*pair, names, answer.not_after, answer.limited)


async def _run(request: bytes, authority: ServerCa, seconds: float) -> _Answer:
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # its modules are the installed ones, not those beside the file
            str(_PROGRAM),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise _failed(authority, f"{sys.executable} can't be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(seconds):
            out, said = await process.communicate(request)
    except TimeoutError as error:
        raise _failed(authority, f"it was not done after {seconds:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        last = (said.decode(errors="replace").strip() or "nothing was said").splitlines()[-1]
        status = f"exit status {process.returncode}"
        raise _failed(authority, f"{status}: {one_line(last, _SAID)}")
    try:
        return _ANSWER.decode(out)
    except ValueError as error:
        # What came may hold a key: it is not shown.
        raise _failed(authority, "the answer was cut short") from error


def _failed(authority: ServerCa, why: str) -> ConfigError:
    where = f"--server-ca-cert={authority.certificate}, --server-ca-key={authority.key}"
    return ConfigError(f"{where}: no serving certificate could be issued: {why}")


def _refused(authority: ServerCa, answer: _Answer) -> ConfigError:
    path = authority.key if answer.wrong == "key" else authority.certificate
    flag = "--server-ca-key" if answer.wrong == "key" else "--server-ca-cert"
    return ConfigError(f"{flag}: {path} {answer.reason}")
