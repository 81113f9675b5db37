"""Joins: every pair of vectors that reaches a threshold, and what follows from all pairs.

A join is a range query for each vector: rows of the index, or of another, are its directions, some thousand at a time.
A pair of one index is looked for once: rows before those that ask are excluded. See ``docs/joins.md``.
"""
