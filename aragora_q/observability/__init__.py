"""Logs, metrics, systemd."""
