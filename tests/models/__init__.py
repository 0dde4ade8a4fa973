"""Models that say what a test wrote: the servers that real coding agents talk to when a test runs them."""
