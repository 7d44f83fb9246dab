"""What the limits are: the policy file's grammar and its reader."""
