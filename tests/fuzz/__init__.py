"""Real files, damaged at random with fixed seeds: whatever is no GenobirdError fails.

`make test` tries some of each kind. To go on for longer, give seconds for each kind:

    GENOBIRD_FUZZ_SECONDS=400 pytest tests/fuzz -s
"""
