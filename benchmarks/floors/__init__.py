"""The least that a reader (fetch) and a loader (load) can cost in Python; nothing here checks anything."""
