"""For authors of plugins: what strategies, backends and commands share."""
