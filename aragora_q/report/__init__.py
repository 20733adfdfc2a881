"""The report of a debate, for a person: `calls.read_calls`, `content.build_report`, then `render` of a layout.

The layouts are the modules `plain`, `markdown` and `page`. Many debates make one document: `build_front` and
`front` its beginning, then `build_chapter` and `chapter` a part for each. Used by `aragora-q show`; `status`
and `wait` use `summary`. Pure: jobs and journals go in, text comes out. Must not know queues, Redis,
files, or how debates run.
"""
