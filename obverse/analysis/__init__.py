"""What runs teach: comparisons at one budget, what gradients did and who pushed, what moved, what is covered."""
