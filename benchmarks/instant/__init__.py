"""A label model in closed form, measured here before the server uses it (`benchmarks.own_data`)."""
