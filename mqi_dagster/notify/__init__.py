"""Telling people outside: a webhook and e-mail, each optional."""
