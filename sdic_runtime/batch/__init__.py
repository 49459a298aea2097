"""Many pictures, in a job that can be continued."""
