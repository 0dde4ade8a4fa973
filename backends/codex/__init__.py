"""The backend `codex`: the local Codex, through `codex app-server` (JSON-RPC in lines over stdio), one process a run.

`backend` is what the engine sees, `options` what a caller may say, `drive` one run with its processes, `turns` the
conversation with one, `client` the protocol. Pure, and tested without a process: `updates` (what the agent
does), `ends` (how a turn ended), `requests` (what it asks). Payloads are objects as they come: every release adds to
them.
"""
