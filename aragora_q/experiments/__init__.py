"""Experiments: a group of debates made from a table of questions by arms, and what came out.

`questions` and `arms` are read from files, `sweep` makes the debates of their product and enqueues those
that are missing. `reading` reads a group back as rows of a table, one per debate; `comparison` and
`evaluation` count them. Used by the commands `sweep`, `table`, `compare` and `eval`, and by the console. Must
not know how results are laid out.
"""
