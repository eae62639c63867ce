"""Programs that pretrain and end themselves with SIGKILL when they are about to save."""

KILL_AFTER = """
import json, os, signal, sys
import ssltool
from ssltool.runs import checkpoint

def kill_after(last):
    save = checkpoint.save

    def killed(run, step, *rest):
        if step > last:
            os.kill(os.getpid(), signal.SIGKILL)
        return save(run, step, *rest)

    checkpoint.save = killed

"""
"""The beginning of a program: `kill_after(step)` lets the first checkpoint after a step kill it."""
