"""View: a trace as lanes, one per path, on a page, in a picture, a profiler or a terminal.

Everything is drawn from *events* (:mod:`.events`), whether they come from a finished text or from
a server while it writes.
"""
