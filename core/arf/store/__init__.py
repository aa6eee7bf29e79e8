"""The study on disk."""
