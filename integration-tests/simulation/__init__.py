"""The bank's own code on a simulated machine: clock, scheduler, network and broker are drawn from a seed."""
