"""What runs teach: bias and variance of gradients, who pushed which token, what moved, what is covered."""
