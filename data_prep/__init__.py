import instruct.ctrl_c  # noqa: F401  (first: imports take seconds)
