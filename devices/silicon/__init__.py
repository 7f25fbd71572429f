"""Area, power and cost of chips as functions of what is on them, each with how sure it is."""
