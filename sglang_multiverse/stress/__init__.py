"""Attacks on a real server: random requests (fuzz) and many at once (soak).

``scripted`` decides a served model's tokens; ``texts``, ``soups``, ``hostile``, ``bodies`` and
``controls`` make what is asked, ``settings`` the servers; ``wire`` asks, ``invariants`` judges the
answers, and ``fuzz`` and ``soak`` drive a server with all of them.
"""
