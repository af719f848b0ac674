"""edgehive: Kubernetes extended to edge nodes and devices. Holds the version and nothing else."""

__version__ = "0.1.0"

#: The KubeEdge release whose wire behaviour and names we follow; part of every version string users see.
KUBEEDGE_VERSION = "v1.23.0"
#: The Kubernetes release whose API we serve and whose kubelet we resemble.
KUBERNETES_VERSION = "v1.32.10"
