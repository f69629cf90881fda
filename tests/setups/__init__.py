"""Redis as it is run elsewhere: Sentinel, a cluster, TLS, users with few rights. The whole chain over each."""
