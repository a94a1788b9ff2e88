"""A search of a corpus for what tasks inject and for natural relatives of the tasks; start with `scan`."""
