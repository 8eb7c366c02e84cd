"""The prediction log: what was asked and what was answered.

In the server: `settings` (what is logged where), `log` (requests leave notes, a thread takes them), `notes`, `writer`
(what the thread does), `rows` (notes to batches), `personal` (columns that are hashed or left out), `journals` (files
of batches), `shipper_process`. In a process of its own: `shipper` (what becomes of journals), `claimed_journal`
(what is in one), `journal_rows` (what readers see), `parquet_files`, `kafka_sender`.
"""
