"""Train with ai2-olmo's trainer. Start with `run`, one rank from start to end; then `trainer`.

`loader` gives a rank its rows, `callbacks/` measure, evaluate and save, `checkpoints/` write, read and convert weights,
`evaluation/` scores models, and `gradients` measures interference. `checks` looks at a run before its launch, and on
every rank.
"""
