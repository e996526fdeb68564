"""An Airflow DAG (3.x): one `sync` per account, side by side; put it into the folder of DAGs.

`bindings-etl` stands on the workers' PATH and $BINDINGS_ETL_CONFIG names its file. Make the pool
once: `airflow pools set bindings_etl 4 "bindings-etl: processes at once"`.

One process per account keeps to the account's `concurrency`, so no pool per account is needed;
`max_active_runs` keeps the next run from beginning beside this one. A service that another run
holds all the same, such as a backfill by hand, is left to that run.
"""

from __future__ import annotations

import json
import subprocess
from datetime import datetime, timedelta

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

AGAIN = AirflowException
"""Tried again by Airflow: it passes by itself."""
A_PERSON_IS_NEEDED = AirflowFailException
"""Failed at once: another try would end the same."""
NOT_NOW = AirflowSkipException

STATES = {
    1: A_PERSON_IS_NEEDED,
    2: A_PERSON_IS_NEEDED,
    3: AGAIN,
    4: AGAIN,
    5: A_PERSON_IS_NEEDED,
    6: NOT_NOW,
    7: AGAIN,
    8: A_PERSON_IS_NEEDED,
    130: AGAIN,
    143: AGAIN,
}
"""What becomes of a task whose command ends with this code; 0 is a success."""


def bindings_etl(*arguments: str, accept: int = 0) -> str:
    """Run a command; return what it prints. Its log goes to the task's."""
    command = ["bindings-etl", *arguments]
    ended = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if ended.returncode not in (0, accept):
        raise STATES.get(ended.returncode, AGAIN)(f"bindings-etl ended with {ended.returncode}")
    return ended.stdout


@dag(
    dag_id="bindings_etl",
    schedule="*/10 * * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
)
def bindings_etl_dag():
    """Read the accounts that there are, then sync each."""

    @task
    def accounts() -> list[str]:
        # 3: an account that could not be asked is listed as it was known.
        work = json.loads(bindings_etl("services", "--json", accept=3))
        return sorted({line["account"] for line in work})

    @task(pool="bindings_etl", execution_timeout=timedelta(hours=1))
    def sync(account: str, run_id: str | None = None) -> dict[str, int]:
        result = bindings_etl("sync", "--json", "--account", account, "--run-group", run_id)
        return json.loads(result)["totals"]

    sync.expand(account=accounts())


bindings_etl_dag()
