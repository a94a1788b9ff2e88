"""Controlled injection of task instances into language-model pretraining.

`config` reads an experiment, `tasks` and `injection` decide what is injected and when, `corpus` holds the text, and
`data` puts them together. `training` trains with ai2-olmo, `adapters` feed other trainers. `runs` reads and writes run
folders, `audit` checks them, `inspect` and `scan` show plans and search corpora. `theory` stands alone. `commands` is
the command line. docs/design.md says which file does what.
"""

from olmo_inject.olmo_imports import defer

defer()
