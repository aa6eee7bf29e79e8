"""The built-in plugins of arf, registered by entry points like anybody's."""
