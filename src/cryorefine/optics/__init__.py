"""What the microscope does to an image: contrast transfer, envelopes, aberrations."""
