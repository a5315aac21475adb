"""What compression costs in accuracy, on real data, and what it buys in speed and size."""
