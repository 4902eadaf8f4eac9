"""The only importer of flwr: upstream strategies over secure aggregation."""
