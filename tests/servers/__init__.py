"""Database servers for the tests: started once per test run, on 127.0.0.1, gone with it however it ends.

`postgres` and `mariadb` each know how to run one server, `engines` lists what this machine can run,
`folder` holds what pytest's workers share, and `reaper` cleans up behind a run that was killed.
"""
