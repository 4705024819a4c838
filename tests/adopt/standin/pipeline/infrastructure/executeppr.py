"""What processing requests may be for, and the procedures that tell of it by their names."""

KNOWN_PROCESSING_INTENTS = {"CUBES": ["test_procedure"], "MOSAICS": []}
