"""Random search over sets of ideas: it never looks at a result."""
