"""What a forwarded port of a fake pod answers: one HTTP page, or else an echo.

kwok starts it once a connection, with the connection as standard input and output.
"""

import os

_PAGE = b"hello from a fake pod\n"
_METHODS = (b"GET ", b"HEAD ")


def main() -> None:
    """Answer an HTTP request with a page; give anything else back as it came."""
    received = os.read(0, 65536)
    if received.startswith(_METHODS):
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
            f"Content-Length: {len(_PAGE)}\r\nConnection: close\r\n\r\n"
        ).encode()
        os.write(1, head if received.startswith(b"HEAD ") else head + _PAGE)
        return
    while received:
        written = os.write(1, received)
        received = received[written:] or os.read(0, 65536)


if __name__ == "__main__":
    main()
