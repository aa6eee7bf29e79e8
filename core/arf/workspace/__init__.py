"""The workspace: git, work trees, patches, the constants of scripts."""
