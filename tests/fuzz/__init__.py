"""Fuzzing of proof files: malformed inputs by the million, and what the verifier makes of each (docs/security.md).

seeds.py       honest proofs, and proofs of the right length for any statement
drafts.py      a file's parts apart, so that one can be put wrong and the rest kept right
mutations.py   how drafts go wrong
target.py      one input: its verdict, time and memory
loop.py        many inputs from a seed, in a process that may die
coverage.py    the same inputs guided by coverage, where atheris is installed
corpus/        inputs that once went wrong, or could
"""
