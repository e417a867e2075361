"""The controller: takes a playbook and a pod, returns a decision that can be trusted."""

__version__ = "0.1.0"
