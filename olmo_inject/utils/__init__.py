"""What every part uses and what is not about injection. It imports of the rest `errors` alone, and what errors need.

Files and folders: `files` (written whole or not at all), `owned_folder`, `output_file`, `locks`, `paths`. Text:
`yaml_text` and `described_yaml` (YAML by the types of dataclasses), `json_shape`, `fraction_text`, `words`. Allowed
values: `number_ranges`, `options`. Processes: `cores`, `parallel_jobs`, `parts_of_work`, `worker_processes`,
`stop_signals`. On the screen: `terminal`, `progress`, `figure_style`. `extras` names what is not installed.
"""
