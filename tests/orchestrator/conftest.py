"""What all tests of the controller share."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says more about the machine's other load than about the code.
settings.register_profile("any-load", deadline=None)
settings.load_profile("any-load")
