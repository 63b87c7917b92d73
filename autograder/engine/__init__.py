"""From answers to records: jobs, the sandbox, the oracle outside it, workers, the store."""
