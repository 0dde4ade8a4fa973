"""Agents to try things out with: a deterministic scripted agent, and a wrapper that serves any backend over A2A."""
