"""The tasks: what each model's requests and responses are."""
