"""The benchmark, and the contract of its results. Importing this package loads nothing heavy."""
