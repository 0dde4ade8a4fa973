"""The host: one detached process per user that owns the live runs, and the bridge by which clients reach it.

`place`, `launch`, `bridge` and `commands` need nothing but the standard library, for every client starts a bridge.
"""
