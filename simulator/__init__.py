"""What happens when: engines, policies, layouts and placement on a SimPy clock."""
