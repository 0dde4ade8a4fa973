"""Orchestrator: one MCP server through which an agent or a person runs other coding agents."""

__version__ = "0.1.0"
