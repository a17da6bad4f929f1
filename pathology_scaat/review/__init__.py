"""Review in the browser: a local server that shows slides and maps and takes verdicts."""
