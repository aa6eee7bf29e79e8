"""Work trees for nodes that share no folder with arf: how they are sent there, and what comes back."""
