"""Token shards, their training order, and the corpus with instances spliced in.

`kinds` finds the corpus that an experiment names, `shards` and `order` give its sequences, `injected` splices
instances into them. `sources` reads shards from a disk, a web server or S3; `from_text` builds a corpus; `staging`
copies the sequences of some steps. The command line opens a corpus with `open`.
"""
