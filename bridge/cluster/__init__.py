"""Several nodes on one PostgreSQL database: membership, the lease that lets a node act, process identity."""
