"""Where a site's things lie under its data folder, and its configuration in edgesite.yaml there."""

from dataclasses import dataclass
from pathlib import Path

from edgehive.api.config.edgesite import EdgeSite
from edgehive.kit import config

DEFAULT_DATA = Path("/var/lib/edgehive")


@dataclass(frozen=True)
class Layout:
    """Paths of one site."""

    data: Path

    @property
    def config(self) -> Path:
        return self.data / "edgesite.yaml"

    @property
    def pki(self) -> Path:
        return self.data / "pki"

    @property
    def kubeconfig(self) -> Path:
        return self.data / "kubeconfig"

    @property
    def store(self) -> Path:
        return self.data / "store.db"

    @property
    def containerd(self) -> Path:
        return self.data / "containerd"

    @property
    def edge(self) -> Path:
        return self.data / "edge"

    @property
    def log(self) -> Path:
        return self.data / "edgesite.log"

    def read_config(self) -> EdgeSite:
        """What the site was last started with, or the defaults; raises ConfigError."""
        return config.load(self.config, EdgeSite) if self.config.exists() else EdgeSite()

    def write_config(self, site: EdgeSite) -> None:
        text = config.dump(site)
        if not self.config.exists() or self.config.read_text() != text:
            # A running site reads it at any time, and finds it whole.
            new = self.config.with_suffix(".new")
            new.write_text(text)
            new.replace(self.config)
