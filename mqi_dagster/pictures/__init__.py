"""Pictures for people: PNG bytes from arrays, without any text that could name a patient."""
