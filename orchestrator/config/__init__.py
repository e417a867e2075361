"""What a person wrote, read strictly: playbooks, variables, phase ranges, package data.

Whatever is wrong with a file ends as a `ConfigError` that names file, line and column.
"""
