"""The pure functional core: arrays and models in, numbers out; NaN means "not defined"."""
