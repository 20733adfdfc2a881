"""Webhooks: messages about ends of jobs and groups, signed and sent to the targets of the configuration.

`deliverer` is the worker's task; `sending` sends one message. Must not know Redis: what waits comes from
`contracts.Outbox`.
"""
