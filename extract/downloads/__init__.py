"""Files of samples that lie at addresses on the web: fetched once into a folder beside the data."""
