"""The backend `claude_code`: the local Claude Code, through claude-agent-sdk.

`backend` is what the engine sees, `options` what a caller may say, `drive` one run with its processes. Pure, and tested
without a process: `updates` (what the agent does), `ends` (how a turn ended), `requests` (what it asks), `prompt`.
`transport` alone knows the SDK's private parts.
"""
