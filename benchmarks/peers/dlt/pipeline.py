"""dlt: its REST source with the JSON link paginator, merged on ``sid`` into PostgreSQL or MariaDB."""

from __future__ import annotations

import os
from typing import Any

import dlt
from dlt import destinations
from dlt.sources.rest_api import rest_api_source

SERVICES = os.environ["BENCH_SERVICES"].split(",")
DATABASE_URL = os.environ["BENCH_DATABASE_URL"]
IS_POSTGRES = DATABASE_URL.startswith("postgresql")
STRATEGY = "upsert" if IS_POSTGRES else "delete-insert"  # all that its SQLAlchemy destination has


def describe_resource(service: str) -> dict[str, Any]:
    return {
        "name": f"bindings_{service}",
        "table_name": "bindings",
        "endpoint": {"path": f"v1/Services/{service}/Bindings"},
    }


def make_source() -> Any:
    return rest_api_source(
        {
            "client": {
                "base_url": os.environ["BENCH_BASE_URL"],
                "auth": {"type": "http_basic", "username": "user", "password": "secret"},
                "paginator": {"type": "json_link", "next_url_path": "meta.next_page_url"},
            },
            "resource_defaults": {
                "primary_key": "sid",
                "write_disposition": {"disposition": "merge", "strategy": STRATEGY},
                "columns": {"message_types": {"data_type": "json"}},
                "parallelized": True,
                "endpoint": {
                    "data_selector": "bindings",
                    "params": {"PageSize": os.environ["BENCH_PAGE_SIZE"]},
                },
            },
            "resources": [describe_resource(service) for service in SERVICES],
        }
    )


def main() -> None:
    pipeline = dlt.pipeline(
        pipeline_name="bindings",
        pipelines_dir=os.environ["BENCH_WORK_DIR"],
        destination=destinations.postgres(DATABASE_URL)
        if IS_POSTGRES
        else destinations.sqlalchemy(DATABASE_URL),
        dataset_name="bench",
    )
    # COPY: faster here than its default
    pipeline.run(make_source(), loader_file_format="csv" if IS_POSTGRES else None)


if __name__ == "__main__":
    main()
