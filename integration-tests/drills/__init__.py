"""Rehearsals of what operators have to rely on, on a composed stack of their own: `make drills DRILL=…`."""
