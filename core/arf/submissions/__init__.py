"""How agents and people hand in experiments to a running study."""
