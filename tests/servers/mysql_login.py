"""A MySQL 8 as far as the door: it plays the login by `caching_sha2_password`, and has no database.

No MySQL can be installed for the tests. What its server says and expects is in the description of
its protocol (Connection Phase; Caching SHA-2 Pluggable Authentication).
"""

import hashlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

_METHOD = b"caching_sha2_password"
_NONCE = bytes(range(1, 21))
# LONG_PASSWORD, CONNECT_WITH_DB, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, PLUGIN_AUTH, LENENC
_CAPABILITIES = 0x1 | 0x8 | 0x200 | 0x2000 | 0x8000 | 0x80000 | 0x200000
_DENIED = b"\xff" + struct.pack("<H", 1045) + b"#28000Access denied"
_NO_DATABASE = b"\xff" + struct.pack("<H", 1049) + b"#42000Unknown database"


class MysqlLogin:
    """`cached`: it has seen the password lately, and wants only a proof. `method`: it asks for this."""

    def __init__(self, password: str, *, cached: bool, method: str | None = None) -> None:
        self._method = method
        self._password = password.encode()
        self._cached = cached
        self._key = rsa.generate_private_key(65537, 2048)
        self._listener = socket.create_server(("127.0.0.1", 0))

    def url(self, password: str) -> str:
        """Of a database that is not there: who hears so has logged in."""
        port = self._listener.getsockname()[1]
        return f"mysql://somebody:{password}@127.0.0.1:{port}/nowhere"

    @contextmanager
    def serve(self) -> Iterator["MysqlLogin"]:
        thread = threading.Thread(target=self._accept)
        thread.start()
        try:
            yield self
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, suppress(OSError, EOFError):  # the client may go at any time
                talk = _Talk(connection)
                talk.send(_NO_DATABASE if self._is_let_in(talk) else _DENIED)

    def _is_let_in(self, talk: "_Talk") -> bool:
        talk.send(_greeting())
        proved = _proof(self._password) in talk.receive()
        if self._method is not None:
            talk.send(b"\xfe" + self._method.encode() + b"\0" + _NONCE + b"\0")
            talk.receive()
            return False
        if self._cached and proved:
            talk.send(b"\x01\x03")
            return True
        talk.send(b"\x01\x04")  # the whole password, please
        if talk.receive() != b"\x02":  # the client asks for the key to seal it with
            return False
        talk.send(b"\x01" + self._public_key())
        return self._unseal(talk.receive()) == self._password + b"\0"

    def _public_key(self) -> bytes:
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def _unseal(self, sealed: bytes) -> bytes:
        method = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
        mixed = self._key.decrypt(sealed, method)
        return bytes(one ^ _NONCE[place % len(_NONCE)] for place, one in enumerate(mixed))


class _Talk:
    """Packets, counted from the first."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = connection.makefile("rb")
        self._number = 0

    def send(self, payload: bytes) -> None:
        head = struct.pack("<I", len(payload))[:3] + bytes([self._number])
        self._connection.sendall(head + payload)
        self._number += 1

    def receive(self) -> bytes:
        head = self._stream.read(4)
        if len(head) < 4:
            raise EOFError
        self._number = head[3] + 1
        return self._stream.read(int.from_bytes(head[:3], "little"))


def _greeting() -> bytes:
    low, high = _CAPABILITIES & 0xFFFF, _CAPABILITIES >> 16
    return (
        b"\x0a8.0.36\0"
        + struct.pack("<I", 7)
        + _NONCE[:8]
        + b"\0"
        + struct.pack("<HBHHB", low, 255, 2, high, len(_NONCE) + 1)
        + b"\0" * 10
        + _NONCE[8:]
        + b"\0"
        + _METHOD
        + b"\0"
    )


def _proof(password: bytes) -> bytes:
    once = hashlib.sha256(password).digest()
    twice = hashlib.sha256(once).digest()
    mask = hashlib.sha256(twice + _NONCE).digest()
    return bytes(one ^ other for one, other in zip(once, mask, strict=True))
