"""Everything that speaks Redis: connections, topologies, keys, scripts."""
