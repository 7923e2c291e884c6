"""The program of a computer that asks for work, `mqi-worker`: it knows the jobs, and nothing of the site."""
