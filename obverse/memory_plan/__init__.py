"""The memory plan: what a run will need at its peak, from its configuration alone, before anything is loaded.

The run's own code is walked through with tensors that have shapes and no numbers (`shadow`), and a ledger (`ledger`)
counts what lives: so the plan knows every family of models that the run knows, and follows the code when it changes.
"""
