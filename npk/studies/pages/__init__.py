"""The pages of a run: figures, numbers and sentences from its files, and nothing computed anew."""
