"""Files: a container of arrays, an index in it, vectors of other formats, results."""
