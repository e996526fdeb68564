"""DuckLake: Parquet files in a folder or a bucket, and a database that says which belong."""
