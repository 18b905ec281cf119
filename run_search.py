"""Search for the best model of a recording.

    python run_search.py --space grvq                               # simulated sessions, local Ray, minutes
    python run_search.py --space grvq --sessions 'worms/*.h5' --trials 200
    python run_search.py --resume runs/grvq-20260101-1 --more 50    # after a crash, or to extend
"""
import sys

from raycal.cli import main

if __name__ == "__main__":
    sys.exit(main())
