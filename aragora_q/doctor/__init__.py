"""What is wrong with server, settings and data."""
