"""Quality of flight_delays as arrivals become known."""
