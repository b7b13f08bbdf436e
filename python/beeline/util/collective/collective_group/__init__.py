"""What a backend's group is, and the two that come along."""
