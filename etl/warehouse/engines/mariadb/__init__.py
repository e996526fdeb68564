"""MariaDB and MySQL: the engine, its sessions, and migrations that go on where they broke off."""
