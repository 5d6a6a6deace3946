"""Learning by rewards of drawn reports, and weights of what is abnormal."""
