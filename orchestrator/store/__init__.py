"""Plain files under `<cwd>/.orchestrator/`: the only place where runs live. Knows the model, nothing of engines or agents."""
