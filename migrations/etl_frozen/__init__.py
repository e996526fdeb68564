"""What migrations are made of. Nothing here changes once a release has used it: later shapes get new names.

Migrations import this and never `etl`, whose tables, types and comments live on.
"""
