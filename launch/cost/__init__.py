"""What a run costs, before it starts: `cost` estimates, `memory` counts, `calibrate` measures, `report` prints.

`accelerators` reads the table `configs/accelerators.yaml`, which has the price of a GPU hour.
"""
