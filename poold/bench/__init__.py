"""How fast a start is, by every way there is, on the operator's own pool.

A pipeline: ways (each brings an application up once and says what it took) -> a run that takes them
in turn -> figures -> a table, JSON, a picture. Only ways touch anything.
"""
