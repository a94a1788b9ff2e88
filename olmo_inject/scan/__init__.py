"""Search a corpus for what tasks inject, and for natural statements about numbers.

`report.search_experiment` is what `corpus scan` calls, and `scan_report` what it writes. `scan` divides a corpus into
pieces for several processes, and `piece` searches one. `instances` recognizes the tokens of tasks; `prefilter`,
`finder` and `statements` find statements; `clean_seeds` draws other task seeds.
"""
