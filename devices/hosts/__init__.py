"""How the devices of a node are connected: hosts as files, and what their links make of collectives."""
