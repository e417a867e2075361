"""The way to a pod: SSH session, host keys, push of the repository, the embedded pod.

Import the module you need: `connection` loads Fabric and Paramiko, `embedded` asyncssh when used.
Errors of those libraries never leave this package; see `border`.
"""
