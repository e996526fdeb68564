"""Which URLs the configuration takes for the API and for hooks; no message repeats one."""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|[0-9a-f:.]*:[0-9a-f:.]*")


def check_origin(url: str) -> str:
    """Return scheme, host and port of a URL that holds nothing else.

    Raises:
        ValueError: it holds more, is no http(s) URL, or plain http to another machine.
    """
    parts = _split(url, "is not an http(s) URL")
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    origin = f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}"
    if url.lower() not in (origin, f"{origin}/"):
        raise ValueError(
            "must be scheme, host and port only, e.g. https://conversations.twilio.com"
        )
    _require_encryption(parts)
    return origin


def check_hook(url: str) -> None:
    """Make sure that `url` can be posted to.

    Raises:
        ValueError: it is no http(s) URL, or plain http to another machine.
    """
    parts = _split(url, "is not an https URL")
    if not re.fullmatch(r"[!-~]+", url):
        raise ValueError("is not an https URL")
    _require_encryption(parts)


def is_loopback(host: str) -> bool:
    """Return whether `host` can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(url: str, otherwise: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(otherwise) from None
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host) or port == 0:
        raise ValueError(otherwise)
    return parts


def _require_encryption(parts: SplitResult) -> None:
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("plain http is taken for loopback addresses only; use https")
