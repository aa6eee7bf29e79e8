"""What the agents that are command-line programs share: Claude Code, Codex."""
