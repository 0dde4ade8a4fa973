"""The proof of reliability: real processes are killed at random moments, and an oracle looks for what was lost.

`tests/system/test_kill.py` does it a few times with the other tests, `scripts/bench kill` at scale.
"""
