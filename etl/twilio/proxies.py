"""The proxy that the environment names."""

import urllib.request
from urllib.parse import urlsplit

import httpcore
import httpx

from etl import errors
from etl.config import is_loopback


def environment_proxy(origin: str) -> httpcore.Proxy | None:
    """Return the proxy that HTTPS_PROXY or ALL_PROXY names, unless NO_PROXY exempts `origin`.

    Loopback and plain http, which is taken for loopback only, never go through one: it would read
    the credentials, and could not reach this machine anyway.

    Raises:
        ConfigurationError: what they name is no HTTP proxy.
    """
    place = urlsplit(origin)
    if place.scheme != "https" or is_loopback(place.hostname or ""):
        return None
    proxies = urllib.request.getproxies_environment()
    address = proxies.get("https") or proxies.get("all")
    is_exempt = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]
    if not address or is_exempt(place.netloc, proxies):
        return None
    try:
        proxy = httpx.Proxy(address if "://" in address else f"http://{address}")
    except (httpx.InvalidURL, ValueError):
        raise _not_a_proxy() from None
    if proxy.url.scheme not in ("http", "https") or not proxy.url.host:
        raise _not_a_proxy()
    url = httpcore.URL(
        scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=b"/"
    )
    return httpcore.Proxy(url, auth=proxy.raw_auth)


def _not_a_proxy() -> errors.ConfigurationError:
    """Return the error for a proxy variable, without its value: it may hold a password."""
    return errors.ConfigurationError(
        "the environment variable HTTPS_PROXY (or ALL_PROXY) does not hold the http(s) URL of a "
        "proxy; correct or unset it"
    )
