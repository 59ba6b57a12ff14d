import instruct.command.ctrl_c  # noqa: F401  (first: imports take seconds)
