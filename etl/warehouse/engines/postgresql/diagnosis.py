"""Why PostgreSQL let nobody in.

libpq tells it in words only, in the server's language and with values of the connection string. So
the way in is gone once more, step by step as libpq goes it, up to where a secret would be sent; of
the last step, name and password, the driver's own word for another database is taken.
"""

import os
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg

from etl.warehouse.engines.base import DbErrorKind
from etl.warehouse.engines.reaching import Unreached, kind_of, reach, read_exactly

_TLS_REQUEST = struct.pack("!ii", 8, 80877103)
_PROTOCOL = 196608
_LONGEST_MESSAGE = 65536
_VERIFYING = ("verify-ca", "verify-full")
_DEMANDING = ("require", *_VERIFYING)
_ALWAYS_THERE = ("postgres", "template1")
_GREETING_SECONDS = 5.0

# The further on the way it was found, the more it says.
_ORDER = (
    DbErrorKind.UNKNOWN_HOST,
    DbErrorKind.REFUSED,
    DbErrorKind.LOST,
    DbErrorKind.SILENT,
    DbErrorKind.STRANGER,
    DbErrorKind.CROWDED,
    DbErrorKind.TLS,
    DbErrorKind.LOGIN,
    DbErrorKind.DENIED,
    DbErrorKind.NO_DATABASE,
)

Parameters = Mapping[str, Any]
Reading = Callable[[str], DbErrorKind]


def diagnose(parameters: Parameters, error: psycopg.Error, by_state: Reading) -> Unreached:
    """Return why connecting failed with `error`; `by_state` says what a SQLSTATE means."""
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        return Unreached(DbErrorKind.SILENT)
    told = [_examine(host, port, parameters, by_state) for host, port in _places(parameters)]
    known = [one for one in told if one.kind in _ORDER]
    unknown = Unreached(DbErrorKind.LOST, type(error).__name__)
    return max(known, key=lambda one: _ORDER.index(one.kind), default=unknown)


def _places(parameters: Parameters) -> Iterator[tuple[str, int]]:
    """Return hosts and ports as libpq reads them."""
    named = parameters.get("hostaddr") or parameters.get("host") or os.environ.get("PGHOST", "")
    hosts = str(named).split(",")
    ports = str(parameters.get("port") or os.environ.get("PGPORT", "")).split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    for host, port in zip(hosts, ports, strict=False):
        if host:
            yield host, int(port or 5432)


def _examine(host: str, port: int, parameters: Parameters, by_state: Reading) -> Unreached:
    place = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else host
    try:
        with reach(place, port, _GREETING_SECONDS) as sock:
            _knock(sock, host, parameters, by_state)
    except Unreached as unreached:
        return unreached
    except OSError as error:
        return Unreached(kind_of(error))
    return _ask_elsewhere(parameters)


def _knock(sock: socket.socket, host: str, parameters: Parameters, by_state: Reading) -> None:
    """Speak the protocol until the server asks for a password or lets us in; raise a refusal."""
    mode = parameters.get("sslmode") or os.environ.get("PGSSLMODE", "prefer")
    if not host.startswith("/") and mode not in ("disable", "allow"):
        sock = _secure(sock, host, str(mode), parameters)
    words = ["user", str(parameters.get("user", "")), "database", _database(parameters), ""]
    body = struct.pack("!i", _PROTOCOL) + b"".join(word.encode() + b"\0" for word in words)
    sock.sendall(struct.pack("!i", len(body) + 4) + body)
    while True:
        kind, size = struct.unpack("!ci", read_exactly(sock, 5))
        if kind not in b"RESNKZv" or not 4 <= size <= _LONGEST_MESSAGE:
            raise Unreached(DbErrorKind.STRANGER)
        content = read_exactly(sock, size - 4)
        if kind == b"E":
            state = _state(content)
            raise Unreached(by_state(state), state)
        if kind == b"Z" or (kind == b"R" and content[:4] != bytes(4)):
            return


def _secure(
    sock: socket.socket, host: str, mode: str, parameters: Parameters
) -> socket.socket | ssl.SSLSocket:
    sock.sendall(_TLS_REQUEST)
    answer = read_exactly(sock, 1)
    if answer == b"N" and mode not in _DEMANDING:
        return sock
    if answer not in b"SN":
        raise Unreached(DbErrorKind.STRANGER)
    if answer == b"N":
        raise Unreached(DbErrorKind.TLS)
    try:
        return _context(mode, parameters).wrap_socket(sock, server_hostname=host)
    except OSError as error:  # of files that are missing, too
        raise Unreached(DbErrorKind.TLS, type(error).__name__) from error


def _context(mode: str, parameters: Parameters) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    root = parameters.get("sslrootcert") or os.environ.get("PGSSLROOTCERT", "")
    context.check_hostname = mode == "verify-full"
    if mode not in _VERIFYING and not root:
        context.verify_mode = ssl.CERT_NONE
    elif root == "system":
        context.load_default_certs()
    else:
        context.load_verify_locations(root or Path.home() / ".postgresql" / "root.crt")
    if "sslcert" in parameters:
        context.load_cert_chain(parameters["sslcert"], parameters.get("sslkey"))
    return context


def _state(content: bytes) -> str:
    """Return the SQLSTATE of an error message."""
    fields = (field for field in content.split(b"\0") if field)
    return next((field[1:].decode() for field in fields if field[:1] == b"C"), "")


def _ask_elsewhere(parameters: Parameters) -> Unreached:
    """Return why a database stays shut, by asking another one with the same name and password."""
    for database in _ALWAYS_THERE:
        try:
            with psycopg.connect(**{**parameters, "dbname": database}) as conn:
                query = "SELECT 1 FROM pg_database WHERE datname = %s"
                found = conn.execute(query, [_database(parameters)]).fetchone()
        except psycopg.Error:
            continue
        return Unreached(DbErrorKind.DENIED if found else DbErrorKind.NO_DATABASE)
    return Unreached(DbErrorKind.LOGIN)


def _database(parameters: Parameters) -> str:
    return str(parameters.get("dbname") or parameters.get("user", ""))
