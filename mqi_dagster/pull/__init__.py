"""Jobs for workers that ask for them: the third executor, and what the server does for the workers."""
