"""Encoders tuned end to end, together with a head that is handed in."""
