"""Work spread over processes of this machine, or over the machines of a cluster."""
