"""The engine: what makes a study happen."""
