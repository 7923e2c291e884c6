"""Putting results where the clinic wants them: targets behind one Protocol, with receipts."""
