"""One file for each page, and what it does."""
