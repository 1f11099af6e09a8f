"""Several processes that share a run: who they are, what they tell each other, and what happens when one is lost."""
