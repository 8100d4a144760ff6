"""Floor 6: running things. Experiments that can be killed and resumed, claims, the race, a look at the machine.

Knows no single method: a method's module says what it is (refimpl/record.py), the lab runs it.
"""
