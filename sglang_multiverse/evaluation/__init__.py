"""Evaluation: accuracy and parallelism with error bars, of any server, on inspect-ai.

An answer's way: :mod:`.tasks` asks it of :mod:`.provider`, :mod:`.answers` finds what it comes to,
:mod:`.grading` compares that with the reference, :mod:`.runs` reads it back from the log, and
:mod:`.report` counts, by :mod:`.statistics`.
"""
