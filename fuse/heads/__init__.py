"""One concept a file; `fuse.registry` names them."""
