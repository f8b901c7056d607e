"""What the product does with a store: history, snapshots, comparison, pins."""
