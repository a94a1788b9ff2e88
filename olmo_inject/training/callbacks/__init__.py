"""Callbacks: everything a run does beside the update (measure, evaluate, save, log). Start with `callback`."""
