"""An FPGA engine simulated as discrete events: units, ping-pong buffers, memory ports, and the queue of experts."""
