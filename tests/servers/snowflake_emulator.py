"""Serves the emulator fakesnow: `python snowflake_emulator.py HOME PORT`, in an environment of its own.

What it lacks of the vendor's documented ways is added here: the login that today's driver asks for, a
password that can be wrong, databases that have to be created, and writers that wait for each other.
"""

import gzip
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import fakesnow.arrow
import fakesnow.conn
import fakesnow.cursor
import fakesnow.server
import pyarrow as pa
import uvicorn
from fakesnow.cursor import FakeSnowflakeCursor
from fakesnow.instance import FakeSnow
from snowflake.connector.errors import ProgrammingError
from sqlglot import exp
from sqlglot.dialects.snowflake import Snowflake
from sqlglot.tokens import TokenType
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

PASSWORD = "snow"
PATIENCE = 60.0
LONGEST_IDLE = 10.0  # of a transaction that others wait for; an account takes 5 minutes
LENGTHS = "_fs_global._fs_information_schema._fs_columns_ext"  # of texts, by column
LOGIN = "/session/v1/login-request"


class Cursor(FakeSnowflakeCursor):  # type: ignore[misc]
    """Whoever begins a transaction with what another has changed waits until that one has ended.

    Parameters have names on the way to DuckDB: what is written anew may need one twice, or not at all.
    """

    _arrow_table: Any

    def execute(self, command: str, *args: Any, **options: Any) -> Any:
        return super().execute(with_names(command), *args, **options)

    def _execute(self, transformed: Any, params: Any = None) -> None:
        write_for_duckdb(transformed)
        if isinstance(params, list):
            params = with_these(transformed, params)
        begins = not self._conn._in_transaction
        give_up_at = time.monotonic() + PATIENCE
        self._conn.at_work_until = float("inf")
        try:
            while not self._has_executed(transformed, params):
                if not begins or time.monotonic() > give_up_at:
                    raise ProgrammingError(msg="conflict", errno=625, sqlstate="57014")
                self._duck_conn.rollback()
                self._conn._in_transaction = False
                abort_idle()
                time.sleep(0.01)
        finally:
            self._conn.at_work_until = time.monotonic()

    def _has_executed(self, transformed: Any, params: Any) -> bool:
        """Whether nobody was in the way; other errors are answers, or the driver would ask again."""
        try:
            super()._execute(transformed, params)
            if isinstance(transformed, exp.Merge):
                self._tell_merged()
        except duckdb.TransactionException:
            return False
        except duckdb.Error as error:
            raise ProgrammingError(msg=str(error), errno=1003, sqlstate="42000") from error
        return True

    def _tell_merged(self) -> None:
        """Answer as after a MERGE of the vendor's; who did what is not known, and nobody asks."""
        count = self._arrow_table.column(0)[0].as_py()
        told = f'SELECT {count} AS "number of rows inserted", 0 AS "number of rows updated"'
        self._arrow_table = self._duck_conn.execute(told).to_arrow_table()
        self._last_sql, self._last_params, self._rowcount = told, None, count


def abort_idle() -> None:
    """End the sessions that have left a transaction open for too long, as those of killed processes do."""
    latest = time.monotonic() - LONGEST_IDLE
    for token, session in list(fakesnow.server.sessions.items()):
        if session._in_transaction and session.at_work_until < latest:
            fakesnow.server.sessions.pop(token, None)
            session._duck_conn.rollback()


def write_for_duckdb(statement: Any) -> None:
    """Mend what the emulator hands to DuckDB unread, or reads otherwise than the vendor says."""
    for properties in statement.find_all(exp.SequenceProperties):
        properties.set("options", None)  # a sequence there rises in time, and cannot be told to
    for alias in statement.find_all(exp.Alias):
        if isinstance(alias.parent, exp.Tuple):  # the next number of a sequence among VALUES
            alias.replace(alias.this)
    for contains in statement.find_all(exp.ArrayContains):
        contains.replace(as_list_contains(contains))


def with_these(statement: Any, values: list[Any]) -> dict[str, Any] | None:
    """The values that are left in a statement, by their names."""
    used = {one.name for one in statement.find_all(exp.Placeholder)}
    named = {f"p{number}": value for number, value in enumerate(values)}
    return {name: value for name, value in named.items() if name in used} or None


as_struct = fakesnow.arrow.timestamp_to_sf_struct


def as_nullable_struct(times: Any) -> Any:
    """Timestamps as the driver reads them: it refuses NULL within what the emulator says has none."""
    times = times.combine_chunks() if isinstance(times, pa.ChunkedArray) else times
    whole = as_struct(times.fill_null(pa.scalar(0, times.type)))
    return pa.StructArray.from_arrays(
        whole.flatten(), fields=list(whole.type), mask=times.is_null()
    )


def as_list_contains(asked: exp.ArrayContains) -> exp.Expression:
    """ARRAY_CONTAINS of a text in a JSON array, or in the names of a JSON object."""
    texts = exp.Literal.string('["VARCHAR"]')
    array = asked.this
    if isinstance(array, exp.ToArray):
        array = exp.Anonymous(this="from_json", expressions=[array.this, texts])
    whole = exp.Literal.string("$")
    item = exp.Anonymous(this="json_extract_string", expressions=[asked.expression, whole])
    return exp.Anonymous(this="list_contains", expressions=[array, item])


def with_names(command: str) -> str:
    """The statement with `:p0`, `:p1` … in the place of each `?`."""
    marks = [
        one for one in Snowflake().tokenize(command) if one.token_type is TokenType.PLACEHOLDER
    ]
    for number, mark in reversed(list(enumerate(marks))):
        command = f"{command[: mark.start]}:p{number}{command[mark.end + 1 :]}"
    return command


def copy_schema(source: str, target: str) -> None:
    """Make all that is in one schema again in another; by statements it would take fifty times as long."""
    with fakesnow.server.shared_fs.duck_conn.cursor() as cursor:
        cursor.execute(f"USE {target}")
        database, _, schema = source.upper().partition(".")
        for kind in ("sequence", "table", "view"):
            cursor.execute(
                f"SELECT {kind}_name, sql FROM duckdb_{kind}s() "
                f"WHERE database_name = '{database}' AND schema_name = '{schema}' ORDER BY {kind}_oid"
            )
            for name, made_by in cursor.fetchall():
                cursor.execute(made_by)
                if kind == "table":
                    cursor.execute(f"INSERT INTO {target}.{name} SELECT * FROM {source}.{name}")
        new_database, _, new_schema = target.upper().partition(".")
        cursor.execute(
            f"INSERT INTO {LENGTHS} SELECT '{new_database}', '{new_schema}', * EXCLUDE "
            f"(ext_table_catalog, ext_table_schema) FROM {LENGTHS} "
            f"WHERE ext_table_catalog = '{database}' AND ext_table_schema = '{schema}'"
        )


def copy(request: Request) -> JSONResponse:
    copy_schema(request.query_params["source"], request.query_params["target"])
    return JSONResponse({})


async def log_in(request: Request) -> JSONResponse:
    body = await request.body()
    if request.headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    if json.loads(body)["data"].get("PASSWORD") != PASSWORD:
        refused = "Incorrect username or password was specified."
        return JSONResponse({"data": {}, "code": "390100", "message": refused, "success": False})
    answer = json.loads(bytes((await fakesnow.server.login_request(request)).body))
    answer["data"] |= {
        "sessionId": 1,
        "masterToken": answer["data"]["token"],
        "validityInSeconds": 3600,
        "masterValidityInSeconds": 14400,
    }
    return JSONResponse(answer)


def main(home: Path, port: int) -> None:
    (home / "snowflake.pid").write_text(str(os.getpid()))
    fakesnow.arrow.timestamp_to_sf_struct = as_nullable_struct
    fakesnow.conn.FakeSnowflakeCursor = Cursor
    # Its own MERGE is several statements, of which one is a DDL that ends the transaction.
    fakesnow.cursor.transforms.merge = lambda statement: [statement]
    fakesnow.server.shared_fs = FakeSnow(
        create_database_on_connect=False, create_schema_on_connect=False
    )
    routes = fakesnow.server.app.router.routes
    others = [one for one in routes if getattr(one, "path", "") != LOGIN]
    ours = [Route(LOGIN, log_in, methods=["POST"]), Route("/copy", copy, methods=["POST"])]
    routes[:] = [*ours, *others]
    uvicorn.run(fakesnow.server.app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
