"""Redis as it is run elsewhere: Sentinel, a cluster, TLS, users with few rights, with the whole chain."""
