"""What can be said of a study: summary, costs, estimate, hardware."""
