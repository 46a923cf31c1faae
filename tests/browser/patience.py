"""How long tests of the page wait for it."""

PATIENCE = 120_000  # milliseconds, of a machine that does much else
