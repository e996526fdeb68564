"""dlt: its REST source with the JSON link paginator, merged on ``sid`` into PostgreSQL."""

from __future__ import annotations

import os
from typing import Any

import dlt
from dlt.sources.rest_api import rest_api_source

SERVICES = os.environ["BENCH_SERVICES"].split(",")


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
                "write_disposition": {"disposition": "merge", "strategy": "upsert"},
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
        destination=dlt.destinations.postgres(os.environ["BENCH_DATABASE_URL"]),
        dataset_name="bench",
    )
    pipeline.run(make_source(), loader_file_format="csv")  # COPY: faster here than its default


if __name__ == "__main__":
    main()
