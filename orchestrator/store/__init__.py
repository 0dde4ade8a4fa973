"""Plain files under `<cwd>/.orchestrator/`: the only place where runs live. Knows no engine and no agent."""
