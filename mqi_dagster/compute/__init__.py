"""One heavy computation of one partition: its slot, its attempt, the engine, and what it waits for."""
