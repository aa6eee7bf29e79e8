"""What a simulated experiment returns: response surfaces, recorded tables of real runs, other studies."""
