"""PostgreSQL: the engine, its sessions, and why a server was not reached."""
