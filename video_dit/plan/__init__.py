"""Plans a run on chips that need not be present: memory, time and cost."""
