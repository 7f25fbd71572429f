"""Hosts: connections of the devices in a node, described in files, and their effect on collectives."""
