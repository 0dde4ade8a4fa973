"""Remote agents over A2A 1.0 and 0.3.

`options` reads the configuration, `transport` guards every request, `agent` finds and speaks to the agent, `updates`
turns what it says into updates (pure), `extension` is what a card that knows us understands beyond A2A (pure), and
`backend` drives one run.
"""
