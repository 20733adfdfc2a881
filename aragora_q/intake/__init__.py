"""From a client's fields to a checked job: what command line and HTTP API share before a job is enqueued.

`jobs.py` makes a job, `checks.py` decides whether and how it may be enqueued, `quoter.py` says what it will
cost, `lines.py` splits input into lines, `bulk.py` does all of it for many jobs. Must not print anything.
"""
