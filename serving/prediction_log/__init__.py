"""The prediction log: what was asked and what was answered, written beside the requests and never in their way.

`settings` (what is logged where) · `log` (requests leave a note, a thread takes the notes) · `rows` (notes to tables) ·
`personal` (columns that are hashed or left out) · `parquet_sink`, `kafka_sink` (where the tables go).
"""
