"""One thread per test process: the suite runs in several processes, and small tensors gain nothing from threads."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in the commands that tests start
