"""Score models on tasks and references, during a run and afterwards. Start with `tasks`."""
