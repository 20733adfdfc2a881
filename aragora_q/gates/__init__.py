"""Money and providers: what all workers of a prefix share, and what each paid call passes.

`client.py` asks to send a call and books it; `policy.py` makes what a configuration declares; `book.py` reads
budgets, spending and providers for operators. Every change is one script of `redis/lua/gate_*.lua`.
"""
