"""The configuration file: its settings, how it is read, and what is said of its faults."""

from etl.config.file import load, load_portable, read_portable
from etl.config.settings import (
    Account,
    Deletes,
    Hooks,
    Place,
    Privacy,
    ReadUrl,
    Retry,
    Run,
    Settings,
    Warehouse,
)
from etl.config.urls import is_loopback

__all__ = [
    "Account",
    "Deletes",
    "Hooks",
    "Place",
    "Privacy",
    "ReadUrl",
    "Retry",
    "Run",
    "Settings",
    "Warehouse",
    "is_loopback",
    "load",
    "load_portable",
    "read_portable",
]
