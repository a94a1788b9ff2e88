"""What is computed on checkpoints and metrics: probes, Fourier modes, patching, alignment search, gradients.

Each method is a `read.store.Method`: a name, options, and a function from a checkpoint to tables. Start with
`features`.
"""
