"""Test tiers. Fast (every run): few drawn examples. REFIMPL_TEST_PROFILE=deep draws many more."""

import os

# Test processes share the cores: OpenMP threads that wait should sleep, not spin. Read when the C core is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from hypothesis import settings

settings.register_profile("fast", max_examples=25, deadline=None, print_blob=True)
settings.register_profile("deep", max_examples=300, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("REFIMPL_TEST_PROFILE", "fast"))
