"""What an environment consists of: resources, each a check and the commands that bring it about.

Pure: nothing here talks to a pod. `orchestrator.steps.provision` runs what these describe.
"""
