"""Callbacks: everything a run does besides the update (measure, evaluate, save, log). Start with `callback`."""
