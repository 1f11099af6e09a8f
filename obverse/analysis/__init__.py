"""What runs teach: bias and variance of the methods' gradients, who pushed which token, what moved, what was covered."""
