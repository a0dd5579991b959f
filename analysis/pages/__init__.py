"""Pages of documentation that are made from committed results: one an algorithm, one a scenario."""
