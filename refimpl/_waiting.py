"""Floor 0: how long idle threads of OpenMP and OpenBLAS wait in a loop before they sleep. Imported before NumPy.

Both libraries keep the threads of a finished call spinning, so that the next call finds them awake. OpenBLAS does so
for some 25 milliseconds, and takes a core from whoever comes next: a matrix product of the C core on two threads and
two cores takes 390 instead of 68 microseconds when it follows one of NumPy. libgomp spins for milliseconds too. Here
both are asked for a short wait, long enough for the next operation of a training step and no longer, unless the
variables are set: with half of it steps of many small operations take up to 1.5 times as long, with twice as much
only products of NumPy that follow take longer. The variables are read when a library is loaded: where NumPy was
imported before, OpenBLAS keeps its own way.
"""

import os

# iterations: some 100 microseconds; OMP_WAIT_POLICY is the user's own word on it
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "4000")
# log2 of processor cycles: about 0.4 milliseconds
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
