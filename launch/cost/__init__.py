"""What a run costs, before it starts: `cost` estimates, `memory` counts, `calibrate` measures, `report` prints."""
