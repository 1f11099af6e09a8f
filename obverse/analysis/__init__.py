"""What runs teach: comparisons at one budget, and what the gradients did."""
