"""Money and providers: what all workers of a prefix share, and what each paid call passes.

`client.py` asks to send a call and books it; `policy.py` makes what a configuration declares. For operators:
`book.py` has budgets, `accounts.py` providers, `overrides.py` what operators set of both, `spending.py` what
was spent, `overview.py` all of it at one moment. Every change is one script of `redis/lua/gate_*.lua`.
"""
