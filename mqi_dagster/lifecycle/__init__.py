"""The life of a partition: how it has come, what was made of it, what is asked for next, and when it goes."""
