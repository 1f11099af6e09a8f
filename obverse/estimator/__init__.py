"""The estimator: every method is one coefficient per trained token. No torch import."""
