"""The console: pages for people, a JSON API for programs, events, metrics and health, from one process.

`app.py` puts the application together, `console.py` holds what its requests share, `roles.py` and
`access.py` decide who may do what. `api/` is the JSON API, `pages/` the pages. Started by `aragora-q web`.
"""
