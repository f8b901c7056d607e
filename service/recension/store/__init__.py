"""Where commits, views and texts are kept."""
