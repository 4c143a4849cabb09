"""Plan, candidates, run: what turns a config into result files."""
