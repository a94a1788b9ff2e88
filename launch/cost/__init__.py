"""What a run costs before it starts: FLOPs, GPU-hours, memory, money; start with `cost`."""
