"""The label-correction study: its programs, configs and results. It is not part of the installed package."""
