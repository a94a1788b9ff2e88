"""The commands, a module for each group; what a command calls is imported when it runs."""
