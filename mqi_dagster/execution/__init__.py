"""Where the engine runs: the Executor Protocol, its jobs, and the local executor."""
