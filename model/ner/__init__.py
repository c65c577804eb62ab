"""Entities: network, CRF, neighbours."""
