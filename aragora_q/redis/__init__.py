"""The only package that uses redis-py: connections, topologies, keys, scripts."""
