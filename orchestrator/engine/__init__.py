"""Live runs: starting, waiting, answering, ending. Knows the store and the backend seam, never a backend."""
