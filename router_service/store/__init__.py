"""Where state lives: jobs, their lines and what was finished of them; one protocol, several stores."""
