"""Logs, metrics and messages to systemd."""
