"""What was asked for: the schema, and the layers it comes from."""
