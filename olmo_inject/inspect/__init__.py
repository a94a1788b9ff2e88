"""What an experiment injects, for people and programs: its plan, and the rows of one step."""
