"""What everything else talks about: verdicts, playbooks, pods, commands, records. No I/O."""
