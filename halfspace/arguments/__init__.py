"""What users pass: arrays of any library, columns and tables, and the checks that refuse the rest."""
