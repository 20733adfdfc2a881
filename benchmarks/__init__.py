"""The benchmark: this queue beside a floor written by hand, on one private server, in one run.

`aragora-q bench` and `make bench` run `measures.run`. `floor` is what any queue on Redis Streams with
this client would have to do at the very least; `jobs` are what our worker runs; `stand` holds server
and processes to their cores; `figures` says what is promised and how it came out. Nothing of it is
imported by the queue.
"""
