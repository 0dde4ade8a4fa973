"""The official conformance suites of MCP on our server, and the exact list of what is expected to fail and why."""
