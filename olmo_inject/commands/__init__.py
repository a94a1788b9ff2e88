"""The command line: a module for each group of commands. A command imports what it calls when it runs."""
