"""Live servers: a real one recorded, and a simulated deployment that answers as one."""
