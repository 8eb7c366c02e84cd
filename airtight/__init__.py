"""The ground floor: what every part of Airtight shares. Standard library only, so that anything may import it."""
