"""The life of an index, log-structured: a tail that fills, segments that are built, merged and restricted."""
