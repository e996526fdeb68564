"""The databases that can be a warehouse, one file or folder each, holding all that differs."""

import functools
from importlib import import_module

import sqlalchemy as sa

from etl.config import Place
from etl.errors import ConfigurationError
from etl.warehouse.engines.base import Engine

# Name in a URL → module with its `ENGINE`, loaded only when it is used.
_MODULES = {
    "sqlite": "sqlite",
    "postgresql": "postgresql.engine",
    "mysql": "mariadb.engine",
    "mariadb": "mariadb.engine",
    "duckdb": "duckdb",
    "ducklake": "ducklake.engine",
    "snowflake": "snowflake.engine",
}
_OTHER_NAMES = {"postgres": "postgresql"}  # as many providers write it


@functools.cache
def engine_named(name: str) -> Engine | None:
    """Return the engine of this name, in a URL or of a dialect; None if there is none."""
    if name not in _MODULES:
        return None
    engine: Engine = import_module(f"{__name__}.{_MODULES[name]}").ENGINE
    return engine


def names() -> tuple[str, ...]:
    """Return the names that a URL may give for its engine."""
    return tuple(_MODULES)


def locate(text: str, data_path: str | None = None) -> tuple[Engine, sa.URL]:
    """Return the engine that a URL names, and where it is; the data's path becomes an option.

    Raises:
        ConfigurationError: it names none.
    """
    try:
        place = read_url(text)
    except ValueError as fault:
        raise ConfigurationError(f"warehouse.url: {fault}") from None
    engine = engine_named(place.engine)
    assert engine is not None  # noqa: S101 - or its URL would not have been read
    options = {} if data_path is None else {"data_path": data_path}
    return engine, sa.make_url(place.url).update_query_dict(options)


def read_url(text: str) -> Place:
    """Return what `text` says of a warehouse, in SQLAlchemy's form.

    Raises:
        ValueError: it names none; no part of it is repeated but the engine.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise ValueError(
            "is not a database URL; write e.g. sqlite:///bindings.db "
            "or postgresql://user:password@host/database"
        )
    written, plus, driver = scheme.partition("+")
    name = _OTHER_NAMES.get(written, written)
    engine = engine_named(name)
    if engine is None:
        raise ValueError(
            f"names none of the engines that bindings-etl knows; use {', '.join(_MODULES)}"
        )
    if plus and driver not in engine.drivers:
        raise ValueError(f"names a driver that bindings-etl does not use; write {name}://…")
    spelled = engine.sqlalchemy_form(f"{name}{plus}{driver}://{rest}")
    url = _taken_apart(spelled)
    if url is None or not engine.accepts(url):
        raise ValueError(engine.url_form.format(engine=name))
    return Place(
        spelled,
        name,
        has_schemas=engine.has_schemas,
        has_data_path=engine.has_data_path,
        asks_for_password=engine.file_of(url) is None,
        has_password=url.password is not None,
    )


def _taken_apart(text: str) -> sa.URL | None:
    try:
        return sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        return None


def masked(text: str) -> str:
    """Return a warehouse's URL as people may see it; drivers take passwords in the query too."""
    url = _taken_apart(text)
    if url is None:
        return "********"
    engine = engine_named(url.get_backend_name())
    harmless = engine.harmless_options if engine else ()
    shown = {name: value if name in harmless else "********" for name, value in url.query.items()}
    return url.set(query=shown).render_as_string(hide_password=True)
