"""The socket that a page or a server listens at."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def listening(host: str, port: int, section: str) -> Iterator[tuple[socket.socket, str]]:
    """A bound socket, and its address as in a link; port 0: any that is free.

    Raises OSError in one line that names ``section``.port when the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise OSError(error.errno, f"port {port} at {host}: {error.strerror}; set {section}.port") from None
        shown = f"[{host}]" if ":" in host else host
        yield listener, f"http://{shown}:{listener.getsockname()[1]}"
