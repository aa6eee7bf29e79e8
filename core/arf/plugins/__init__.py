"""Who exists: the registry of plugins, and what stands between them and arf."""
