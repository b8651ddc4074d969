"""Pure tensor functions: no stage, no model, no state. Each runs on any device."""
