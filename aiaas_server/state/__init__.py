"""What outlives the process: one database, its tables, its transactions and its changes."""
