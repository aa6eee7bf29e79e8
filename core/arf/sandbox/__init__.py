"""Confines jobs: what they can read, write and reach is what they were given."""
