"""Settings of every test: hypothesis repeats itself on CI, and nothing reaches a hub."""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("local", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
