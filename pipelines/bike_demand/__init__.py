"""Rides of Washington's shared bicycles in the next hour, as quantiles, retrained monthly."""
