"""Why a server was not reached, found out by reaching for it: names, ports, silence."""

import socket

from etl.warehouse.engines.base import DbErrorKind


class Unreached(Exception):
    """No connection came about, and why."""

    def __init__(self, kind: DbErrorKind, code: str = "") -> None:
        super().__init__(kind.value)
        self.kind = kind
        self.code = code


def reach(host: str, port: int, seconds: float) -> socket.socket:
    """Return a socket connected to a server; a host that is a path means a Unix socket.

    Raises:
        Unreached: there is none.
    """
    try:
        if not host.startswith("/"):
            return socket.create_connection((host, port), seconds)
        local = socket.socket(socket.AF_UNIX)
        local.settimeout(seconds)
        local.connect(host)
    except OSError as error:
        raise Unreached(kind_of(error)) from error
    return local


def kind_of(error: OSError) -> DbErrorKind:
    """Return what an error of the operating system says of the server."""
    if isinstance(error, socket.gaierror):
        return DbErrorKind.UNKNOWN_HOST
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return DbErrorKind.REFUSED
    return DbErrorKind.SILENT if isinstance(error, TimeoutError) else DbErrorKind.LOST


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Return exactly so many bytes from a socket.

    Raises:
        Unreached: they do not come; who answers so speaks another protocol.
    """
    data = b""
    while len(data) < size:
        try:
            piece = sock.recv(size - len(data))
        except OSError as error:
            silent = isinstance(error, TimeoutError)
            raise Unreached(DbErrorKind.SILENT if silent else DbErrorKind.STRANGER) from error
        if not piece:
            raise Unreached(DbErrorKind.STRANGER)
        data += piece
    return data
