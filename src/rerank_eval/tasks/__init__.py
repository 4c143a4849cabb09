"""Names to mteb tasks: embedded tasks, BEIR folders, hub tasks, suites."""
