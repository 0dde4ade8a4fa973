"""Where runs work, and what came of it: git worktrees and clones, snapshots, patches that were verified."""
