"""The commands: a file here is a verb, by being here.  Its docstring is its help; it has `add_arguments` and `run`."""
