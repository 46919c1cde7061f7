"""What iterations work on and hand on: inputs, poses, plan, state, particles batch by batch."""
