"""A conformance kit: plays an edge before any mapper in any language and says what it does not do as it should.

`mapper conformance` runs it; `edge.py` is the edge it plays, `kit.py` runs the checks, the rest are the checks.
"""
