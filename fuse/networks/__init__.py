"""The torch side of heads, one concept a file. Nothing here is imported before a head trains."""
