"""Ways in: thin translations between a protocol and the engine."""
