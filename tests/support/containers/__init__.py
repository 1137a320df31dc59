"""Images and containers without a Docker engine: podman builds and runs them, debootstrap makes a base."""
