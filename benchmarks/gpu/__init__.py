"""One prepared script for an hour on an accelerator; see `__main__`."""
