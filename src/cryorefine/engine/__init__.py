"""Where and with how much a run computes: devices, threads, memory. It knows no method."""
