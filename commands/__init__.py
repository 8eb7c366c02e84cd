"""What a person does with a supervised pipeline at a terminal: `python -m commands.demo --pipeline NAME`."""
