"""How the counts leave the process: `server` answers scrapes."""
