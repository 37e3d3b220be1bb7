"""The undetected-fault chain by brute force, for the tests of its two implementations."""

import itertools

import numpy as np

from dreamprm_jax.labeling.correction.change_point import FAILED, PASSED


def brute_force(hazard, hidden, alive, dead, outcome):
    """P(alive) of every step by summing over all state sequences of one program."""
    steps = len(hazard)
    total, kept = 0.0, np.zeros(steps)
    for states in itertools.product("AHD", repeat=steps):
        weight, before = 1.0, "A"
        for step, state in enumerate(states):
            h = hazard[step]
            table = {
                "AA": 1 - h,
                "AH": h * hidden,
                "AD": h * (1 - hidden),
                "HD": h * (1 - hidden),
                "HH": 1 - h * (1 - hidden),
                "DD": 1.0,
            }
            weight *= table.get(before + state, 0.0) * (dead[step] if state == "D" else alive[step])
            before = state
        if (outcome == PASSED and before != "A") or (outcome == FAILED and before == "A"):
            continue
        total += weight
        kept += weight * np.array([state == "A" for state in states])
    return kept / total, np.log(total)
