"""Explanations of single predictions, black-box; numpy alone, loaded with the first one."""
