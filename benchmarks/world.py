"""The bindings that every contestant reads: a pure function of service, index and variant."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from dataclasses import dataclass
from itertools import permutations

BASE, CHANGED, EXPIRED = "base", "changed", "expired"
"""What is served: these rows, some of them changed, the same under other page tokens."""
CHANGED_SHARE = 100  # one row in a hundred
CHANGED_SINCE = "2025-11-01T00:00:00Z"  # later than every date of the base variant

_MESSAGE_TYPES = [
    json.dumps(order)
    for order in permutations(("new_message", "added_to_conversation", "removed_from_conversation"))
]
_DAYS = [f"{2023 + n // 336}-{n % 336 // 28 + 1:02}-{n % 28 + 1:02}" for n in range(672)]
_ROW = (
    '{{"sid": "{sid}", "account_sid": "{account}", "chat_service_sid": "{service}", '
    '"credential_sid": "{credential}", "date_created": "{created}", "date_updated": "{updated}", '
    '"endpoint": "{endpoint}", "identity": "{identity}", "binding_type": "{kind}", '
    '"message_types": {types}, "url": "{base_url}/v1/Services/{service}/Bindings/{sid}"}}'
)


def make_sid(prefix: str, name: str) -> str:
    return prefix + hashlib.blake2b(f"{prefix}:{name}".encode(), digest_size=16).hexdigest()


ACCOUNT_SID = make_sid("AC", "bench")
_CREDENTIALS = {"apn": make_sid("CR", "apn"), "fcm": make_sid("CR", "fcm")}


@dataclass(frozen=True)
class World:
    """How many services of how many rows, and how they are handed out."""

    services: int = 4
    rows_per_service: int = 25_000
    page_size: int = 100
    latency_ms: float = 0

    @property
    def rows(self) -> int:
        return self.services * self.rows_per_service

    @property
    def changed_rows(self) -> int:
        return self.rows // CHANGED_SHARE

    @property
    def pages_per_service(self) -> int:
        return max(1, -(-self.rows_per_service // self.page_size))

    @property
    def service_sids(self) -> list[str]:
        return [make_sid("IS", str(number)) for number in range(self.services)]

    def changed_indexes(self) -> frozenset[int]:
        """Global row numbers that differ in the changed variant, spread at random, always the same."""
        return frozenset(random.Random(7).sample(range(self.rows), self.changed_rows))


def make_row(base_url: str, service_sid: str, index: int, *, changed: bool) -> str:
    """One binding as JSON text."""
    noise = hashlib.shake_128(f"{service_sid}/{index}".encode()).digest(160)
    kind = "apn" if noise[0] & 1 else "fcm"
    created = f"{_DAYS[noise[1] * 2]}T{noise[2] % 24:02}:{noise[3] % 60:02}:{noise[4] % 60:02}Z"
    updated = (
        f"{_DAYS[noise[1] * 2 + 160]}T{noise[5] % 24:02}:{noise[6] % 60:02}:{noise[7] % 60:02}Z"
    )
    return _ROW.format(
        sid=f"BS{noise[8:24].hex()}",
        account=ACCOUNT_SID,
        service=service_sid,
        credential=_CREDENTIALS[kind],
        created=created,
        updated=CHANGED_SINCE if changed else updated,
        endpoint=_make_endpoint(kind, noise, changed=changed),
        identity=f"user-{index // 2:07}@example.com",
        kind=kind,
        types=_MESSAGE_TYPES[noise[24] % len(_MESSAGE_TYPES)],
        base_url=base_url,
    )


def _make_endpoint(kind: str, noise: bytes, *, changed: bool) -> str:
    seed = noise[32:64] if not changed else hashlib.blake2b(noise[32:64], digest_size=32).digest()
    if kind == "apn":
        return seed.hex()
    token = base64.urlsafe_b64encode(seed + noise[64:148]).decode().rstrip("=")
    return f"{token[:11]}:APA91b{token[11:]}"
