"""Test tiers by REFIMPL_TEST_PROFILE. fast (every run): few drawn examples, the same ones each time. random: as few,
others each time. deep: many, others each time."""

import os
import signal

# A background job is started with Ctrl-C ignored; tests that send it, and the processes they start, expect the default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Test processes share the cores: OpenMP threads that wait should sleep, not spin. Read when the C core is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# What was learned on a developer's machine must not decide what is tested.
os.environ["REFIMPL_WISDOM"] = "off"

from hypothesis import settings

settings.register_profile("fast", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("random", max_examples=25, deadline=None, print_blob=True)
settings.register_profile("deep", max_examples=300, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("REFIMPL_TEST_PROFILE", "fast"))


def pytest_terminal_summary(terminalreporter):
    """What the tutorials took, in processor time: together they are to stay below four minutes."""
    took = {}
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, seconds in report.user_properties:
            if name == "tutorial_seconds":
                took[report.nodeid.split("[")[-1].rstrip("]")] = seconds
    if took:
        each = ", ".join(f"{name} {seconds:.0f}" for name, seconds in sorted(took.items()))
        terminalreporter.write_line(f"tutorials in quick mode: {sum(took.values()):.0f} s of 240 s ({each})")
