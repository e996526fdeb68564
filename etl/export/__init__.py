"""Changed rows as files, for warehouses that load files."""
