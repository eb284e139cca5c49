"""What the engine `oci` is made of: stages, boxes, networks, bundles and the runtime's calls."""
