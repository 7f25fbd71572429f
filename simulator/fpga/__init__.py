"""The FPGA engine as discrete events: units, ping-pong buffers, memory ports, metaqueue."""
