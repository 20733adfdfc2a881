"""What the programs of all queues in Python share: the payload, and the work of a job.

Runs in the environment of each queue: standard library only, like client.py.
"""

import os
import struct
import time

URL = os.environ["REDIS_URL"]
PAYLOAD = {"text": "x" * 289}  # 300 bytes as JSON

RUNS = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
RUN = struct.Struct("=q")


def ran():
    """Note that a job runs: the time of the machine's monotonic clock in ns, appended to the file RUNS."""
    os.write(RUNS, RUN.pack(time.monotonic_ns()))
