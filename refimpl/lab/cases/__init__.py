"""What `refimpl bench ops` races: operations with arguments of the sizes that the papers use, and PyTorch's same.

Numbers of floating-point operations are nominal: an addition, multiplication, comparison, division, exp or square root
counts as one, and a gelu as 8 (an erf or tanh among them). Bytes are not declared: every input read once and every
output written once is the least that an operation must move, and the race takes that from the arrays themselves.
"""

from __future__ import annotations

from refimpl.lab.cases.case import Case
from refimpl.lab.cases.convolutions import CONVOLUTIONS
from refimpl.lab.cases.memory_bound import MEMORY_BOUND
from refimpl.lab.cases.products import PRODUCTS
from refimpl.lab.cases.sequences import SEQUENCES

__all__ = ["CASES", "Case"]

CASES: tuple[Case, ...] = (*PRODUCTS, *CONVOLUTIONS, *SEQUENCES, *MEMORY_BOUND)
