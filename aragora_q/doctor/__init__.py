"""Check the server, the settings and the data of a queue; repair the data."""
