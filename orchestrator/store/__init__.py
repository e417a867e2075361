"""The run directory: one class knows its layout, files are written and renamed."""
