"""`obverse report`: a run, or every run of a comparison, as one self-contained page that explains its figures."""
