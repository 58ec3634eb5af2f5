"""The vcluster syncer: makes a virtual Kubernetes cluster real inside one host namespace."""
