"""Pure tensor functions: no stage, no model, no state but whether Triton runs. Each runs on any device."""
