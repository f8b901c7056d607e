"""Values and rules; no input, no output."""
