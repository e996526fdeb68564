"""What migrations are made of. Nothing here changes once a release has used it: later shapes get new names.

Migrations import this and never `etl`, whose tables, types and comments live on. MariaDB commits
each DDL at once, so one that broke off is run again from its start: DDL whose effect is there is
passed over, an UPDATE or INSERT has to bear being run twice.
"""
